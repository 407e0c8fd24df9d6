// The epilogue for 16 channels at a time. Only for files compiled with AVX-512 F, BW, VL.
#pragma once

#include <immintrin.h>

#include "kernels/epilogue.h"

namespace quantsr {

// f: channels o..o+15 of pixel (y, x).
static inline void finish_avx512(const Epilogue& e, __m512 f, int64_t y, int64_t x, int o) {
  const int left = e.channels - o;
  const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  const __m512 zero = _mm512_setzero_ps();
  if (e.relu) f = _mm512_max_ps(f, zero);
  if (e.skip.origin) {
    const float* skip = e.skip.origin + y * e.skip.row_stride + x * e.skip.pixel_stride + o;
    f = _mm512_add_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, skip), _mm512_set1_ps(e.gain)), f);
  }
  if (e.out.origin)
    _mm512_mask_storeu_ps(e.out.origin + y * e.out.row_stride + x * e.out.pixel_stride + o, mask, f);
  if (e.codes.origin) {
    __m512 v = _mm512_add_ps(_mm512_mul_ps(f, _mm512_set1_ps(e.inv)), _mm512_loadu_ps(e.offset + o));
    v = _mm512_min_ps(_mm512_max_ps(v, zero), _mm512_set1_ps(e.levels));
    const __m512i q = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    uint8_t* codes = e.codes.origin + y * e.codes.row_stride + x * e.codes.pixel_stride + o;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(q));
  }
}

}  // namespace quantsr
