// 16 floats. Only for files compiled with AVX-512 F, BW, VL.
#pragma once

#include "kernels/dot_avx512vnni.h"
#include "kernels/epilogue_avx512.h"

namespace quantsr {
namespace {

struct LanesAvx512 {
  static constexpr int kLanes = 16;
  static constexpr int kBlock = 2;  // vectors of pixels that attention takes at once
  static constexpr int kRows = 2;   // and pixels that these see
  static constexpr int kWords = 8;  // of queries of a pixel that attention on codes holds in registers
  __m512 v;

  LanesAvx512() = default;
  explicit LanesAvx512(__m512 x) : v(x) {}
  explicit LanesAvx512(float x) : v(_mm512_set1_ps(x)) {}
  static __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static LanesAvx512 load(const float* p) { return LanesAvx512(_mm512_loadu_ps(p)); }
  static LanesAvx512 load(const float* p, int count) { return LanesAvx512(_mm512_maskz_loadu_ps(mask(count), p)); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int count) const { _mm512_mask_storeu_ps(p, mask(count), v); }
  LanesAvx512 first(int count) const { return LanesAvx512(_mm512_maskz_mov_ps(mask(count), v)); }
  LanesAvx512 operator+(LanesAvx512 b) const { return LanesAvx512(_mm512_add_ps(v, b.v)); }
  LanesAvx512 operator-(LanesAvx512 b) const { return LanesAvx512(_mm512_sub_ps(v, b.v)); }
  LanesAvx512 operator*(LanesAvx512 b) const { return LanesAvx512(_mm512_mul_ps(v, b.v)); }
  LanesAvx512 operator/(LanesAvx512 b) const { return LanesAvx512(_mm512_div_ps(v, b.v)); }
  LanesAvx512 root() const { return LanesAvx512(_mm512_sqrt_ps(v)); }
  static LanesAvx512 fma(LanesAvx512 a, LanesAvx512 b, LanesAvx512 c) {
    return LanesAvx512(_mm512_fmadd_ps(a.v, b.v, c.v));
  }
  static LanesAvx512 max(LanesAvx512 a, LanesAvx512 b) { return LanesAvx512(_mm512_max_ps(a.v, b.v)); }
  static LanesAvx512 min(LanesAvx512 a, LanesAvx512 b) { return LanesAvx512(_mm512_min_ps(a.v, b.v)); }
  static LanesAvx512 times_power(LanesAvx512 p, LanesAvx512 shifted) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
    return LanesAvx512(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), n)));
  }

  static inline __attribute__((always_inline)) void transpose(LanesAvx512 (&rows)[16]) {
    __m512 a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      a[2 * i] = _mm512_unpacklo_ps(rows[2 * i].v, rows[2 * i + 1].v);
      a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i].v, rows[2 * i + 1].v);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m512d low = _mm512_castps_pd(a[4 * i + j]), high = _mm512_castps_pd(a[4 * i + 2 + j]);
        b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
        b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // b[4 g + i]: columns i, i + 4, i + 8, i + 12 of rows 4 g ..
      const __m512 p = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88), q = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
      const __m512 r = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88),
                   s = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
      rows[i].v = _mm512_shuffle_f32x4(p, r, 0x88);
      rows[i + 8].v = _mm512_shuffle_f32x4(p, r, 0xdd);
      rows[i + 4].v = _mm512_shuffle_f32x4(q, s, 0x88);
      rows[i + 12].v = _mm512_shuffle_f32x4(q, s, 0xdd);
    }
  }

  static void store_codes(uint8_t* to, LanesAvx512 f, float levels) {
    const __m512 v = _mm512_min_ps(_mm512_set1_ps(levels), f.v);  // a NaN passes, as in quantize_avx512
    const __m512i q = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512())));
  }
  // Four vectors of them.
  static void store_codes(uint8_t* to, const LanesAvx512 (&f)[4], float levels) {
    __m512i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 v = _mm512_min_ps(_mm512_set1_ps(levels), f[i].v);
      q[i] = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    _mm512_storeu_si512(to, narrow4_avx512(q[0], q[1], q[2], q[3]));
  }

  // Integers, see lanes_ref.h.
  using Ints = __m512i;
  using Sums = __m512i;
  static Ints ints(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static Ints load_ints(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static void store_ints(Ints x, uint32_t* p) { _mm512_storeu_si512(p, x); }
  static Sums begin(Ints ahead) { return _mm512_sub_epi32(_mm512_setzero_si512(), ahead); }
  static Sums dot(Sums sums, Ints bytes, uint32_t word) {
    dot4_vnni(sums, ints(word), bytes);
    return sums;
  }
  static Ints total(Sums sums, Ints) { return sums; }
  static LanesAvx512 floats(Ints x) { return LanesAvx512(_mm512_cvtepi32_ps(x)); }
  static Ints codes(LanesAvx512 f, float levels) {
    const __m512 v = _mm512_min_ps(_mm512_set1_ps(levels), f.v);
    const __m512i q = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_max_epi32(q, _mm512_setzero_si512());
  }
  static Ints word(const Ints (&codes)[4]) {
    const __m512i low = _mm512_or_si512(codes[0], _mm512_slli_epi32(codes[1], 8));
    const __m512i high = _mm512_or_si512(codes[2], _mm512_slli_epi32(codes[3], 8));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
  static Ints less(Ints bytes, uint32_t zero, uint32_t mask) {
    return _mm512_and_si512(_mm512_sub_epi8(bytes, ints(zero * 0x01010101)), ints(mask));
  }
};

}  // namespace
}  // namespace quantsr
