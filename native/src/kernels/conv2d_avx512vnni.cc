// conv2d, direct, with AVX-512 FMA: each lane is one output and runs through the sum in the order of conv2d_ref. A
// register block is P pixels of a row x 16 G outputs.
#include "kernels/epilogue_avx512.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

template <int P, int G>
void block(const Conv2dJob& job, const float* weights, int o, int64_t y, int64_t x) {
  __m512 acc[P][G];
#pragma GCC unroll 12
  for (int r = 0; r < P; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) acc[r][g] = _mm512_loadu_ps(job.bias + o + 16 * g);

  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, run = int64_t{k} * job.shape.in_channels;
  const float* corner = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky) {
    const float* a = corner + ky * job.in.row_stride;
    for (int64_t i = 0; i < run; ++i, ++a, weights += 16 * G) {  // pixels are dense: kx and input in one
      __m512 w[G];
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) w[g] = _mm512_loadu_ps(weights + 16 * g);
#pragma GCC unroll 12
      for (int r = 0; r < P; ++r) {
        const __m512 in = _mm512_set1_ps(a[r * pixel]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[r][g] = _mm512_fmadd_ps(in, w[g], acc[r][g]);
      }
    }
  }

  const int pixels = job.width - x < P ? static_cast<int>(job.width - x) : P;
  finish_avx512<G>(job.epilogue, {y, x, pixels, o}, acc);
}

template <int P, int G>
void row(const Conv2dJob& job, const float* weights, int o, int64_t y) {
  for (int64_t x = 0; x < job.width; x += P) block<P, G>(job, weights, o, y, x);
}

}  // namespace

void conv2d_avx512vnni(const Conv2dJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.shape.in_channels;
  for (int64_t y = begin; y < end; ++y)
    for (int o = 0; o < job.shape.out_channels; o += 64) {
      const float* weights = job.weights + o * per_output;
      switch ((job.shape.out_channels - o + 15) / 16) {
        case 1: row<12, 1>(job, weights, o, y); break;
        case 2: row<12, 2>(job, weights, o, y); break;
        case 3: row<6, 3>(job, weights, o, y); break;
        default: row<6, 4>(job, weights, o, y);
      }
    }
}

}  // namespace quantsr
