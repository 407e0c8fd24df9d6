// The epilogue for 8 channels at a time. Only for files compiled with AVX2.
#pragma once

#include <immintrin.h>

#include "kernels/epilogue.h"

namespace quantsr {

// f: channels o..o+7 of pixel (y, x); o may lie past the last real channel.
static inline void finish_avx2(const Epilogue& e, __m256 f, int64_t y, int64_t x, int o) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(e.channels - o), lanes);
  const __m256 zero = _mm256_setzero_ps();
  if (e.relu) f = _mm256_max_ps(f, zero);
  if (e.skip.origin) {
    const float* skip = e.skip.origin + y * e.skip.row_stride + x * e.skip.pixel_stride + o;
    f = _mm256_add_ps(_mm256_mul_ps(_mm256_maskload_ps(skip, mask), _mm256_set1_ps(e.gain)), f);
  }
  if (e.out.origin) _mm256_maskstore_ps(e.out.origin + y * e.out.row_stride + x * e.out.pixel_stride + o, mask, f);
  if (e.codes.origin) {
    __m256 v = _mm256_add_ps(_mm256_mul_ps(f, _mm256_set1_ps(e.inv)), _mm256_loadu_ps(e.offset + o));
    v = _mm256_min_ps(_mm256_max_ps(v, zero), _mm256_set1_ps(e.levels));
    v = _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i q = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    uint8_t* codes = e.codes.origin + y * e.codes.row_stride + x * e.codes.pixel_stride + o;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(words, words));
  }
}

}  // namespace quantsr
