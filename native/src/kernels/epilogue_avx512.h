// The epilogue for the sums of a register block, 16 channels at a time. Only for files compiled with AVX-512 F, BW, VL.
#pragma once

#include <immintrin.h>

#include "kernels/epilogue.h"

namespace quantsr {

// Where a register block lies: pixels x .. x + pixels - 1 of row y, outputs from o on.
struct Block {
  int64_t y, x;
  int pixels, o;
};

template <class T>
static inline T* at(const View<T>& view, const Block& b) {
  return view.origin + b.y * view.row_stride + b.x * view.pixel_stride + b.o;
}

// The flags are template arguments because a test per vector costs several percent of a layer.
template <int G, bool Skip, bool Out, bool Codes>
static inline void finish_block(const Epilogue& e, const Block& b, const __m512 (*sums)[G]) {
  const __m512 zero = _mm512_setzero_ps(), gain = _mm512_set1_ps(e.gain), inv = _mm512_set1_ps(e.inv);
  const __m512 levels = _mm512_set1_ps(e.levels);
  const bool relu = e.relu;
  const float* offset = e.offset + b.o;
  const int left = e.channels - b.o - 16 * (G - 1);  // in the last group
  const __mmask16 last = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  const float* skip = Skip ? at(e.skip, b) : nullptr;
  float* out = Out ? at(e.out, b) : nullptr;
  uint8_t* codes = Codes ? at(e.codes, b) : nullptr;
  const int64_t skip_step = e.skip.pixel_stride, out_step = e.out.pixel_stride, codes_step = e.codes.pixel_stride;
  for (int r = 0; r < b.pixels; ++r, skip += skip_step, out += out_step, codes += codes_step) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const __mmask16 mask = g == G - 1 ? last : 0xffff;
      __m512 f = sums[r][g];
      if (relu) f = _mm512_max_ps(f, zero);
      if (Skip) f = _mm512_add_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, skip + 16 * g), gain), f);
      if (Out) _mm512_mask_storeu_ps(out + 16 * g, mask, f);
      if (Codes) {
        const __m512 v = _mm512_add_ps(_mm512_mul_ps(f, inv), _mm512_loadu_ps(offset + 16 * g));
        const __m512i q = _mm512_cvt_roundps_epi32(_mm512_min_ps(_mm512_max_ps(v, zero), levels),
                                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * g), _mm512_cvtepi32_epi8(q));
      }
    }
  }
}

template <int G>
static inline void finish_avx512(const Epilogue& e, const Block& b, const __m512 (*sums)[G]) {
  const bool skip = e.skip.origin != nullptr, out = e.out.origin != nullptr, codes = e.codes.origin != nullptr;
  if (skip && out && codes) return finish_block<G, true, true, true>(e, b, sums);
  if (skip && codes) return finish_block<G, true, false, true>(e, b, sums);
  if (skip) return finish_block<G, true, true, false>(e, b, sums);
  if (out && codes) return finish_block<G, false, true, true>(e, b, sums);
  if (codes) return finish_block<G, false, false, true>(e, b, sums);
  finish_block<G, false, true, false>(e, b, sums);
}

}  // namespace quantsr
