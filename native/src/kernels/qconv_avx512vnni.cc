// qconv2d, direct, with vpdpbusd: codes times weights summed over 4 inputs into 32 bits. A register block is 6 pixels
// of a row x 64 outputs = 24 accumulators, which stay in registers through all taps and inputs.
#include "kernels/dot_avx512vnni.h"
#include "kernels/epilogue_avx512.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

constexpr int kPixels = 6;

// Adds the taps of one kernel row: `steps` times 4 inputs, which lie in one run (see pack.h).
template <int G>
inline void add_row(__m512i (&acc)[kPixels][G], const uint8_t* a, int64_t pixel, const int8_t* weights, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s, a += 4, weights += 64 * G) {
    __m512i w[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) w[g] = _mm512_loadu_si512(weights + 64 * g);
#pragma GCC unroll 6
    for (int r = 0; r < kPixels; ++r) {
      const __m512i codes = broadcast4_vnni(a + r * pixel);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) dot4_vnni(acc[r][g], codes, w[g]);
    }
  }
}

// G: groups of 16 outputs.
template <int G>
void block(const QConvJob& job, const int8_t* weights, int o, int64_t y, int64_t x) {
  __m512i acc[kPixels][G];
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) acc[r][g] = _mm512_loadu_si512(job.init + o + 16 * g);

  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, steps = k * pixel / 4;
  const uint8_t* a = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky, a += job.in.row_stride, weights += 64 * G * steps)
    add_row(acc, a, pixel, weights, steps);

  __m512 sums[kPixels][G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    const __m512 mul = _mm512_loadu_ps(job.epilogue.mul + o + 16 * g);
    const __m512 bias = _mm512_loadu_ps(job.epilogue.bias + o + 16 * g);
#pragma GCC unroll 6
    for (int r = 0; r < kPixels; ++r)
      sums[r][g] = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][g]), mul), bias);
  }
  const int pixels = job.width - x < kPixels ? static_cast<int>(job.width - x) : kPixels;
  finish_avx512<G>(job.epilogue, {y, x, pixels, o}, sums);
}

template <int G>
void row(const QConvJob& job, const int8_t* weights, int o, int64_t y) {
  for (int64_t x = 0; x < job.width; x += kPixels) block<G>(job, weights, o, y, x);
}

}  // namespace

void qconv_avx512vnni(const QConvJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.in.pixel_stride;
  for (int64_t y = begin; y < end; ++y)
    for (int o = 0; o < job.shape.out_channels; o += 64) {
      const int8_t* weights = job.weights + o * per_output;
      switch ((job.shape.out_channels - o + 15) / 16) {
        case 1: row<1>(job, weights, o, y); break;
        case 2: row<2>(job, weights, o, y); break;
        case 3: row<3>(job, weights, o, y); break;
        default: row<4>(job, weights, o, y);
      }
    }
}

}  // namespace quantsr
