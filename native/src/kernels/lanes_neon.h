// 4 floats. Only for files compiled for 64-bit ARM.
#pragma once

#include "kernels/epilogue_neon.h"

namespace quantsr {
namespace {

struct LanesNeon {
  static constexpr int kLanes = 4;
  static constexpr int kBlock = 2;  // vectors of pixels that attention takes at once
  static constexpr int kRows = 2;   // and pixels that these see
  static constexpr int kWords = 4;  // of queries of a pixel that attention on codes holds in registers
  float32x4_t v;

  LanesNeon() = default;
  explicit LanesNeon(float32x4_t x) : v(x) {}
  explicit LanesNeon(float x) : v(vdupq_n_f32(x)) {}
  static LanesNeon load(const float* p) { return LanesNeon(vld1q_f32(p)); }
  static LanesNeon load(const float* p, int count) {
    float some[4] = {};
    std::memcpy(some, p, static_cast<size_t>(count) * sizeof(float));
    return load(some);
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store(float* p, int count) const {
    float some[4];
    store(some);
    std::memcpy(p, some, static_cast<size_t>(count) * sizeof(float));
  }
  LanesNeon first(int count) const {
    const int32_t lanes[4] = {0, 1, 2, 3};
    const uint32x4_t kept = vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(count));
    return LanesNeon(vreinterpretq_f32_u32(vandq_u32(kept, vreinterpretq_u32_f32(v))));
  }
  LanesNeon operator+(LanesNeon b) const { return LanesNeon(vaddq_f32(v, b.v)); }
  LanesNeon operator-(LanesNeon b) const { return LanesNeon(vsubq_f32(v, b.v)); }
  LanesNeon operator*(LanesNeon b) const { return LanesNeon(vmulq_f32(v, b.v)); }
  LanesNeon operator/(LanesNeon b) const { return LanesNeon(vdivq_f32(v, b.v)); }
  LanesNeon root() const { return LanesNeon(vsqrtq_f32(v)); }
  static LanesNeon fma(LanesNeon a, LanesNeon b, LanesNeon c) { return LanesNeon(vfmaq_f32(c.v, a.v, b.v)); }
  static LanesNeon max(LanesNeon a, LanesNeon b) { return LanesNeon(vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)); }
  static LanesNeon min(LanesNeon a, LanesNeon b) { return LanesNeon(vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)); }
  static LanesNeon times_power(LanesNeon p, LanesNeon shifted) {
    const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(shifted.v), 23);
    return LanesNeon(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p.v), n)));
  }

  static void transpose(LanesNeon (&rows)[4]) {
    const float32x4x2_t a = vtrnq_f32(rows[0].v, rows[1].v), b = vtrnq_f32(rows[2].v, rows[3].v);
    rows[0].v = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    rows[1].v = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    rows[2].v = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    rows[3].v = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
  }

  static void store_codes(uint8_t* to, LanesNeon f, float levels) {
    const float32x4_t v = vminq_f32(relu_neon(f.v), vdupq_n_f32(levels));
    const int16x4_t words = vmovn_s32(vcvtnq_s32_f32(v));
    const uint32_t codes = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
    std::memcpy(to, &codes, 4);
  }
  static void store_codes(uint8_t* to, const LanesNeon (&f)[4], float levels) {
    for (int i = 0; i < 4; ++i) store_codes(to + 4 * i, f[i], levels);
  }

  // Integers, see lanes_ref.h.
  using Ints = uint32x4_t;
  using Sums = int32x4_t;
  static Ints ints(uint32_t x) { return vdupq_n_u32(x); }
  static Ints load_ints(const uint32_t* p) { return vld1q_u32(p); }
  static void store_ints(Ints x, uint32_t* p) { vst1q_u32(p, x); }
  static Sums begin(Ints ahead) { return vnegq_s32(vreinterpretq_s32_u32(ahead)); }
  static Sums dot(Sums sums, Ints bytes, uint32_t word) {  // of signed bytes, as the word's are below 128 or meet a 0
    return vdotq_s32(sums, vreinterpretq_s8_u32(bytes), vreinterpretq_s8_u32(ints(word)));
  }
  static Ints total(Sums sums, Ints) { return vreinterpretq_u32_s32(sums); }
  static LanesNeon floats(Ints x) { return LanesNeon(vcvtq_f32_s32(vreinterpretq_s32_u32(x))); }
  static Ints codes(LanesNeon f, float levels) {
    return vreinterpretq_u32_s32(vcvtnq_s32_f32(vminq_f32(relu_neon(f.v), vdupq_n_f32(levels))));
  }
  static Ints word(const Ints (&codes)[4]) {
    const uint32x4_t low = vorrq_u32(codes[0], vshlq_n_u32(codes[1], 8));
    const uint32x4_t high = vorrq_u32(codes[2], vshlq_n_u32(codes[3], 8));
    return vorrq_u32(low, vshlq_n_u32(high, 16));
  }
  static Ints less(Ints bytes, uint32_t zero, uint32_t mask) {
    const uint8x16_t zeros = vdupq_n_u8(static_cast<uint8_t>(zero));
    return vandq_u32(vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(bytes), zeros)), ints(mask));
  }
};

}  // namespace
}  // namespace quantsr
