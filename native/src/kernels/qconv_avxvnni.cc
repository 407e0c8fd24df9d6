// qconv2d, direct, with vpdpbusd on 256 bits: codes times weights summed over 4 inputs into 32 bits. A register block
// is 6 pixels of a row x 16 outputs, whose sums stay in registers through all taps and inputs.
#include "kernels/dot_avxvnni.h"
#include "kernels/qconv_avx2.h"

namespace quantsr {
namespace {

// Adds the taps of one kernel row: `steps` times 4 inputs, which lie in one run (see pack.h).
inline void add_row(__m256i (&acc)[kPixels][2], const uint8_t* a, int64_t pixel, const int8_t* weights, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s, a += 4, weights += 64) {
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
#pragma GCC unroll 6
    for (int r = 0; r < kPixels; ++r) {
      const __m256i codes = broadcast4(a + r * pixel);
      dot4_avxvnni(acc[r][0], codes, w0);
      dot4_avxvnni(acc[r][1], codes, w1);
    }
  }
}

template <class Flags>
void block(const QConvJob& job, const int8_t* weights, int o, int64_t y, int64_t x) {
  __m256i acc[kPixels][2];
  load_init(job, o, acc);
  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, steps = k * pixel / 4;
  const uint8_t* a = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky, a += job.in.row_stride, weights += 64 * steps) add_row(acc, a, pixel, weights, steps);
  finish_sums<Flags>(job, acc, o, y, x);
}

}  // namespace

void qconv_avxvnni(const QConvJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.in.pixel_stride;
  with_flags(job.epilogue, [&](auto flags) {
    for (int64_t y = begin; y < end; ++y)
      for (int o = 0; o < job.shape.out_channels; o += 16)
        for (int64_t x = 0; x < job.width; x += kPixels)
          block<decltype(flags)>(job, job.weights + o * per_output, o, y, x);
  });
}

}  // namespace quantsr
