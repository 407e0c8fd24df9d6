// The epilogue for the sums of a register block, 16 channels at a time. Only for files compiled with AVX-512 F, BW, VL.
#pragma once

#include <immintrin.h>

#include "kernels/epilogue_flags.h"

namespace quantsr {

// The code as int32, not above the last one; what is negative here becomes 0 when it is narrowed with saturation.
// Operands of min are in this order because a NaN must pass it: converted, it is INT_MIN.
static inline __m512i quantize_avx512(__m512 f, __m512 inv, __m512 offset, __m512 levels) {
  const __m512 v = _mm512_add_ps(_mm512_mul_ps(f, inv), offset);
  return _mm512_cvt_roundps_epi32(_mm512_min_ps(levels, v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline __m512i quantize_avx512(const Epilogue& e, __m512 f, __m512 inv, __m512 offset) {
  return quantize_avx512(f, inv, offset, _mm512_set1_ps(e.levels));
}

// 16 bytes from each of 4 registers.
static inline __m512i narrow4_avx512(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}

// Finishes 16 outputs of each of P (even) pixels, of which the first `b.pixels` exist.
template <class Flags, int P>
static inline void finish_pixels(const Epilogue& e, const Block& b, __m512 (&f)[P]) {
  const int left = e.channels - b.o;
  const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  if (e.relu)
#pragma GCC unroll 4
    for (int r = 0; r < P; ++r) f[r] = _mm512_max_ps(f[r], _mm512_setzero_ps());
#pragma GCC unroll 4
  for (int r = 0; r < P; ++r) {
    const __mmask16 here = r < b.pixels ? mask : 0;
    if (Flags::kSkip) {
      const __m512 skip = _mm512_maskz_loadu_ps(here, at(e.skip, b) + r * e.skip.pixel_stride);
      f[r] = _mm512_add_ps(_mm512_mul_ps(skip, _mm512_set1_ps(e.gain)), f[r]);
    }
    if (Flags::kOut) _mm512_mask_storeu_ps(at(e.out, b) + r * e.out.pixel_stride, here, f[r]);
  }
  if (!Flags::kCodes) return;
  const __m512 inv = _mm512_loadu_ps(e.inv + b.o), offset = _mm512_loadu_ps(e.offset + b.o);
  __m512i q[4] = {};
#pragma GCC unroll 4
  for (int r = 0; r < P; ++r) q[r] = quantize_avx512(e, f[r], inv, offset);
  const __m512i bytes = narrow4_avx512(q[0], q[1], q[2], q[3]);
  uint8_t* codes = at(e.codes, b);
  const auto store = [&](int r, __m128i v) {
    if (r < b.pixels) _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + r * e.codes.pixel_stride), v);
  };
  store(0, _mm512_castsi512_si128(bytes));
  store(1, _mm512_extracti32x4_epi32(bytes, 1));
  if (P == 2) return;
  store(2, _mm512_extracti32x4_epi32(bytes, 2));
  store(3, _mm512_extracti32x4_epi32(bytes, 3));
}

// Finishes a register block: b.pixels pixels of 16 G outputs.
template <int G, class Flags>
static inline void finish_block(const Epilogue& e, const Block& b, const __m512 (*sums)[G]) {
  const __m512 zero = _mm512_setzero_ps(), gain = _mm512_set1_ps(e.gain);
  const bool relu = e.relu;
  // Of what is absent no address is computed: past a null pointer is nowhere.
  const float *inv = Flags::kCodes ? e.inv + b.o : nullptr, *offset = Flags::kCodes ? e.offset + b.o : nullptr;
  const int left = e.channels - b.o - 16 * (G - 1);  // in the last group
  const __mmask16 last = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  const float* skip = Flags::kSkip ? at(e.skip, b) : nullptr;
  float* out = Flags::kOut ? at(e.out, b) : nullptr;
  uint8_t* codes = Flags::kCodes ? at(e.codes, b) : nullptr;
  const int64_t skip_step = Flags::kSkip ? e.skip.pixel_stride : 0, out_step = Flags::kOut ? e.out.pixel_stride : 0,
                codes_step = Flags::kCodes ? e.codes.pixel_stride : 0;
  for (int r = 0; r < b.pixels; ++r, skip += skip_step, out += out_step, codes += codes_step) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const __mmask16 mask = g == G - 1 ? last : 0xffff;
      __m512 f = sums[r][g];
      if (relu) f = _mm512_max_ps(f, zero);
      if (Flags::kSkip) f = _mm512_add_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, skip + 16 * g), gain), f);
      if (Flags::kOut) _mm512_mask_storeu_ps(out + 16 * g, mask, f);
      if (Flags::kCodes) {
        const __m512i q =
            _mm512_max_epi32(quantize_avx512(e, f, _mm512_loadu_ps(inv + 16 * g), _mm512_loadu_ps(offset + 16 * g)),
                             _mm512_setzero_si512());
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * g), _mm512_cvtepi32_epi8(q));
      }
    }
  }
}

template <int G>
static inline void finish_avx512(const Epilogue& e, const Block& b, const __m512 (*sums)[G]) {
  with_flags(e, [=, &e, &b](auto flags) { finish_block<G, decltype(flags)>(e, b, sums); });
}

}  // namespace quantsr
