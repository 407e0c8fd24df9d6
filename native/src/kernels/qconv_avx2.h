// The register block of the direct qconv2d kernels with 256-bit vectors: 6 pixels of a row x 16 outputs. Only for files
// compiled with AVX2.
#pragma once

#include "kernels/epilogue_avx2.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

constexpr int kPixels = 6;

inline __m256i broadcast4(const void* bytes) {
  int32_t four;
  __builtin_memcpy(&four, bytes, 4);
  return _mm256_set1_epi32(four);
}

inline void load_init(const QConvJob& job, int o, __m256i (&acc)[kPixels][2]) {
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) acc[r][g] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.init + o + 8 * g));
}

// The epilogue of pixels x .. x + 5, of which those within the row exist.
template <class Flags>
inline void finish_sums(const QConvJob& job, const __m256i (&acc)[kPixels][2], int o, int64_t y, int64_t x) {
  __m256 f[kPixels][2];
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g)
      f[r][g] =
          _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[r][g]), _mm256_loadu_ps(job.epilogue.mul + o + 8 * g)),
                        _mm256_loadu_ps(job.epilogue.bias + o + 8 * g));
  const int pixels = job.width - x < kPixels ? static_cast<int>(job.width - x) : kPixels;
  finish_block<Flags>(job.epilogue, {y, x, pixels, o}, f);
}

}  // namespace
}  // namespace quantsr
