// conv2d, direct, with 256-bit FMA: each lane is one output and runs through the sum in the order of conv2d_ref. A
// register block is 6 pixels of a row x 16 outputs.
#include "kernels/epilogue_avx2.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

constexpr int kPixels = 6;

template <class Flags>
void block(const Conv2dJob& job, const float* weights, int o, int64_t y, int64_t x) {
  __m256 acc[kPixels][2];
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) acc[r][g] = _mm256_loadu_ps(job.bias + o + 8 * g);

  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, run = int64_t{k} * job.shape.in_channels;
  const float* corner = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky) {
    const float* a = corner + ky * job.in.row_stride;
    for (int64_t i = 0; i < run; ++i, ++a, weights += 16) {  // pixels are dense: kx and input in one
      const __m256 w0 = _mm256_loadu_ps(weights), w1 = _mm256_loadu_ps(weights + 8);
#pragma GCC unroll 6
      for (int r = 0; r < kPixels; ++r) {
        const __m256 in = _mm256_broadcast_ss(a + r * pixel);
        acc[r][0] = _mm256_fmadd_ps(in, w0, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(in, w1, acc[r][1]);
      }
    }
  }

  const int pixels = job.width - x < kPixels ? static_cast<int>(job.width - x) : kPixels;
  __m256 f[kPixels][2];  // a copy, because arrays that are passed on do not stay in registers
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r) f[r][0] = acc[r][0], f[r][1] = acc[r][1];
  finish_block<Flags>(job.epilogue, {y, x, pixels, o}, f);
}

}  // namespace

void conv2d_avx2(const Conv2dJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.shape.in_channels;
  with_flags(job.epilogue, [&](auto flags) {
    for (int64_t y = begin; y < end; ++y)
      for (int o = 0; o < job.shape.out_channels; o += 16)
        for (int64_t x = 0; x < job.width; x += kPixels)
          block<decltype(flags)>(job, job.weights + o * per_output, o, y, x);
  });
}

}  // namespace quantsr
