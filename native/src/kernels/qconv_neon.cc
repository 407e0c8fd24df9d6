// qconv2d, direct, with sdot, which multiplies signed bytes. Codes of up to 4 bits are such as they are; of 8-bit ones
// 128 is taken off. A register block is 4 pixels of a row x 16 outputs.
#include "kernels/dot_neon.h"
#include "kernels/epilogue_neon.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace quantsr {
namespace {

constexpr int kPixels = 4;

template <bool Centred>
void block(const QConvJob& job, const int8_t* weights, int o, int64_t y, int64_t x) {
  int32x4_t acc[kPixels][4];
#pragma GCC unroll 4
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) acc[r][g] = vld1q_s32(job.init + o + 4 * g);

  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, run = k * pixel;  // a kernel row is one run of inputs (see pack.h)
  const uint8_t* a = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky, a += job.in.row_stride, weights += 16 * run)
    dot_neon<Centred>(acc, reinterpret_cast<const int8_t*>(a), pixel, weights, run);

#pragma GCC unroll 4
  for (int r = 0; r < kPixels; ++r)
    if (x + r < job.width) finish_sums_neon<0>(job.epilogue, acc[r], y, x + r, o);
}

template <bool Centred>
void rows(const QConvJob& job, int64_t begin, int64_t end) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.in.pixel_stride;
  for (int64_t y = begin; y < end; ++y)
    for (int o = 0; o < job.shape.out_channels; o += 16)
      for (int64_t x = 0; x < job.width; x += kPixels) block<Centred>(job, job.weights + o * per_output, o, y, x);
}

}  // namespace

PackedConv pack_qconv_neon(const ConvShape& s, const int8_t* weights) {
  ConvShape seen = s;
  if (s.act_bits == 8) seen.zero -= 128;
  return pack_qconv_panels(seen, weights, 16);
}

void qconv_neon(const QConvJob& job, int64_t begin, int64_t end, std::byte*) {
  job.shape.act_bits == 8 ? rows<true>(job, begin, end) : rows<false>(job, begin, end);
}

}  // namespace quantsr
