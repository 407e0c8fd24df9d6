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
};

}  // namespace
}  // namespace quantsr
