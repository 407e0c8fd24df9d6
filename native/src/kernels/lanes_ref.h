// One float as a vector of one lane: the definition of what vectors do.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/epilogue_ref.h"

namespace quantsr {
namespace {

struct LanesRef {
  static constexpr int kLanes = 1;
  static constexpr int kBlock = 1;  // vectors of pixels that attention takes at once
  static constexpr int kRows = 1;   // and pixels that these see
  static constexpr int kWords = 4;  // of queries of a pixel that attention on codes holds in registers
  float v;

  LanesRef() = default;
  explicit LanesRef(float x) : v(x) {}
  static LanesRef load(const float* p) { return LanesRef(*p); }
  static LanesRef load(const float* p, int) { return LanesRef(*p); }
  void store(float* p) const { *p = v; }
  void store(float* p, int) const { *p = v; }
  LanesRef first(int) const { return *this; }
  LanesRef operator+(LanesRef b) const { return LanesRef(v + b.v); }
  LanesRef operator-(LanesRef b) const { return LanesRef(v - b.v); }
  LanesRef operator*(LanesRef b) const { return LanesRef(v * b.v); }
  LanesRef operator/(LanesRef b) const { return LanesRef(v / b.v); }
  LanesRef root() const { return LanesRef(std::sqrt(v)); }
  static LanesRef fma(LanesRef a, LanesRef b, LanesRef c) { return LanesRef(std::fma(a.v, b.v, c.v)); }
  // The second one if either is NaN.
  static LanesRef max(LanesRef a, LanesRef b) { return a.v > b.v ? a : b; }
  static LanesRef min(LanesRef a, LanesRef b) { return a.v < b.v ? a : b; }
  // p * 2^n, n: the low bits of `shifted`.
  static LanesRef times_power(LanesRef p, LanesRef shifted) {
    uint32_t bits, n;
    std::memcpy(&bits, &p.v, 4);
    std::memcpy(&n, &shifted.v, 4);
    bits += n << 23;
    std::memcpy(&p.v, &bits, 4);
    return p;
  }
  static void transpose(LanesRef (&)[1]) {}
  // kLanes codes of what is scaled already.
  static void store_codes(uint8_t* to, LanesRef f, float levels) { *to = quantize_ref(f.v, 1.0f, 0.0f, levels); }
  static void store_codes(uint8_t* to, const LanesRef (&f)[4], float levels) {
    for (int i = 0; i < 4; ++i) store_codes(to + i, f[i], levels);
  }

  using Ints = int32_t;  // of 32 bits, or four bytes each
  using Sums = int32_t;  // of products of bytes
  static Ints ints(uint32_t x) { return static_cast<int32_t>(x); }
  static Ints load_ints(const uint32_t* p) { return ints(*p); }
  static void store_ints(Ints x, uint32_t* p) { *p = static_cast<uint32_t>(x); }
  // Sums that `total` makes `ahead` smaller than what is added to them.
  static Sums begin(Ints ahead) { return -ahead; }
  // Adds the products of four signed bytes, at most 15 in size, and the unsigned ones of a word, at most 15 as well
  // where the others are not 0; at most 64 times before `total`.
  static Sums dot(Sums sums, Ints bytes, uint32_t word) {
    for (int i = 0; i < 4; ++i)
      sums += static_cast<int8_t>(static_cast<uint32_t>(bytes) >> 8 * i) * static_cast<uint8_t>(word >> 8 * i);
    return sums;
  }
  static Ints total(Sums sums, Ints) { return sums; }
  static LanesRef floats(Ints x) { return LanesRef(static_cast<float>(x)); }
  // Codes of what is scaled already.
  static Ints codes(LanesRef f, float levels) { return quantize_ref(f.v, 1.0f, 0.0f, levels); }
  // Four codes as bytes, the first one lowest.
  static Ints word(const Ints (&codes)[4]) { return codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24; }
  // Each byte less `zero`, of those in the mask; the others become 0.
  static Ints less(Ints bytes, uint32_t zero, uint32_t mask) {
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) result |= (((static_cast<uint32_t>(bytes) >> 8 * i) - zero) & 255) << 8 * i;
    return ints(result & mask);
  }
};

}  // namespace
}  // namespace quantsr
