// 8 floats. Only for files compiled with AVX2 and FMA.
#pragma once

#include "kernels/epilogue_avx2.h"

namespace quantsr {
namespace {

struct LanesAvx2 {
  static constexpr int kLanes = 8;
  static constexpr int kBlock = 1;  // vectors of pixels that attention takes at once
  static constexpr int kRows = 2;   // and pixels that these see
  static constexpr int kWords = 4;  // of queries of a pixel that attention on codes holds in registers
  __m256 v;

  LanesAvx2() = default;
  explicit LanesAvx2(__m256 x) : v(x) {}
  explicit LanesAvx2(float x) : v(_mm256_set1_ps(x)) {}
  static __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static LanesAvx2 load(const float* p) { return LanesAvx2(_mm256_loadu_ps(p)); }
  static LanesAvx2 load(const float* p, int count) { return LanesAvx2(_mm256_maskload_ps(p, mask(count))); }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int count) const { _mm256_maskstore_ps(p, mask(count), v); }
  LanesAvx2 first(int count) const { return LanesAvx2(_mm256_and_ps(v, _mm256_castsi256_ps(mask(count)))); }
  LanesAvx2 operator+(LanesAvx2 b) const { return LanesAvx2(_mm256_add_ps(v, b.v)); }
  LanesAvx2 operator-(LanesAvx2 b) const { return LanesAvx2(_mm256_sub_ps(v, b.v)); }
  LanesAvx2 operator*(LanesAvx2 b) const { return LanesAvx2(_mm256_mul_ps(v, b.v)); }
  LanesAvx2 operator/(LanesAvx2 b) const { return LanesAvx2(_mm256_div_ps(v, b.v)); }
  LanesAvx2 root() const { return LanesAvx2(_mm256_sqrt_ps(v)); }
  static LanesAvx2 fma(LanesAvx2 a, LanesAvx2 b, LanesAvx2 c) { return LanesAvx2(_mm256_fmadd_ps(a.v, b.v, c.v)); }
  static LanesAvx2 max(LanesAvx2 a, LanesAvx2 b) { return LanesAvx2(_mm256_max_ps(a.v, b.v)); }
  static LanesAvx2 min(LanesAvx2 a, LanesAvx2 b) { return LanesAvx2(_mm256_min_ps(a.v, b.v)); }
  static LanesAvx2 times_power(LanesAvx2 p, LanesAvx2 shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
    return LanesAvx2(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.v), n)));
  }

  static inline __attribute__((always_inline)) void transpose(LanesAvx2 (&rows)[8]) {
    __m256 a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm256_unpacklo_ps(rows[2 * i].v, rows[2 * i + 1].v);
      a[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i].v, rows[2 * i + 1].v);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        b[4 * i + 2 * j] = _mm256_shuffle_ps(a[4 * i + j], a[4 * i + 2 + j], 0x44);
        b[4 * i + 2 * j + 1] = _mm256_shuffle_ps(a[4 * i + j], a[4 * i + 2 + j], 0xee);
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      rows[i].v = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
      rows[i + 4].v = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
    }
  }

  static void store_codes(uint8_t* to, LanesAvx2 f, float levels) {
    // A NaN passes the minimum and becomes INT_MIN; what is negative becomes 0 when it is narrowed.
    const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(levels), f.v));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
  }
  // Four vectors of them.
  static void store_codes(uint8_t* to, const LanesAvx2 (&f)[4], float levels) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(levels), f[i].v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow4_avx2(q[0], q[1], q[2], q[3]));
  }

  // Integers, see lanes_ref.h.
  using Ints = __m256i;
  using Sums = __m256i;  // two of 16 bits in each lane: 64 times 2 * 15 * 15 < 2^15
  static Ints ints(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static Ints load_ints(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store_ints(Ints x, uint32_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static Sums begin(Ints) { return _mm256_setzero_si256(); }
  // In assembler, because GCC 12 takes many products at once and spills the sums.
  static Sums dot(Sums sums, Ints bytes, uint32_t word) {
    __m256i products;
    asm("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(bytes), "x"(ints(word)));
    return sums;
  }
  static Ints total(Sums sums, Ints ahead) {
    return _mm256_sub_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), ahead);
  }
  static LanesAvx2 floats(Ints x) { return LanesAvx2(_mm256_cvtepi32_ps(x)); }
  static Ints codes(LanesAvx2 f, float levels) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(levels), f.v));
    return _mm256_max_epi32(q, _mm256_setzero_si256());
  }
  static Ints word(const Ints (&codes)[4]) {
    const __m256i low = _mm256_or_si256(codes[0], _mm256_slli_epi32(codes[1], 8));
    const __m256i high = _mm256_or_si256(codes[2], _mm256_slli_epi32(codes[3], 8));
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
  }
  static Ints less(Ints bytes, uint32_t zero, uint32_t mask) {
    return _mm256_and_si256(_mm256_sub_epi8(bytes, ints(zero * 0x01010101)), ints(mask));
  }
};

}  // namespace
}  // namespace quantsr
