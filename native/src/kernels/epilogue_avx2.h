// The epilogue for the sums of a register block, 8 channels at a time. Only for files compiled with AVX2.
#pragma once

#include <immintrin.h>

#include "kernels/epilogue_flags.h"

namespace quantsr {

// The code as int32, not above the last one; what is negative here becomes 0 when it is narrowed with saturation.
// Operands of min are in this order because a NaN must pass it: converted, it is INT_MIN.
static inline __m256i quantize_avx2(const Epilogue& e, __m256 f, int o) {
  const __m256 v = _mm256_add_ps(_mm256_mul_ps(f, _mm256_loadu_ps(e.inv + o)), _mm256_loadu_ps(e.offset + o));
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(e.levels), v));
}

// 8 bytes from each of 4 registers, in their order.
static inline __m256i narrow4_avx2(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Stores quarters first .. first + 3 of P pixels x 8 G channels: narrowed bytes, row by row.
template <int G>
static inline void store_codes(uint8_t* codes, int64_t pixel, int first, int pixels, __m256i bytes) {
  const __m128i halves[2] = {_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)};
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int r = (first + 2 * h) / G;
    __m128i* to = reinterpret_cast<__m128i*>(codes + r * pixel);
    if (G == 2) {
      if (r < pixels) _mm_storeu_si128(to, halves[h]);
    } else {
      if (r < pixels) _mm_storel_epi64(to, halves[h]);
      if (r + 1 < pixels)
        _mm_storeh_pd(reinterpret_cast<double*>(codes + (r + 1) * pixel), _mm_castsi128_pd(halves[h]));
    }
  }
}

// Whole: all P pixels and all 8 G channels exist.
template <class Flags, bool Whole, int P, int G>
static inline void finish_part(const Epilogue& e, const Block& b, __m256 (&f)[P][G]) {
  static_assert(P * G % 4 == 0 && G <= 2, "codes are narrowed by fours");
  const int pixels = Whole ? P : b.pixels;
  if (e.relu) {
#pragma GCC unroll 6
    for (int r = 0; r < P; ++r)
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) f[r][g] = _mm256_max_ps(f[r][g], _mm256_setzero_ps());
  }
  if (Flags::kSkip || Flags::kOut) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#pragma GCC unroll 6
    for (int r = 0; r < P; ++r) {
      if (!Whole && r >= pixels) break;
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(e.channels - b.o - 8 * g), lanes);
        if (Flags::kSkip) {
          const float* from = at(e.skip, b) + r * e.skip.pixel_stride + 8 * g;
          const __m256 skip = Whole ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask);
          f[r][g] = _mm256_add_ps(_mm256_mul_ps(skip, _mm256_set1_ps(e.gain)), f[r][g]);
        }
        if (Flags::kOut) {
          float* to = at(e.out, b) + r * e.out.pixel_stride + 8 * g;
          Whole ? _mm256_storeu_ps(to, f[r][g]) : _mm256_maskstore_ps(to, mask, f[r][g]);
        }
      }
    }
  }
  if (!Flags::kCodes) return;
#pragma GCC unroll 3
  for (int i = 0; i < P * G; i += 4) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) q[j] = quantize_avx2(e, f[(i + j) / G][(i + j) % G], b.o + 8 * ((i + j) % G));
    store_codes<G>(at(e.codes, b), e.codes.pixel_stride, i, pixels, narrow4_avx2(q[0], q[1], q[2], q[3]));
  }
}

// Finishes 8 G outputs of each of P pixels, of which the first b.pixels exist; outputs may lie past the last real one.
template <class Flags, int P, int G>
static inline void finish_block(const Epilogue& e, const Block& b, __m256 (&f)[P][G]) {
  if (b.pixels >= P && b.o + 8 * G <= e.channels)
    finish_part<Flags, true>(e, b, f);
  else
    finish_part<Flags, false>(e, b, f);
}

}  // namespace quantsr
