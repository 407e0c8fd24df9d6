// The epilogue for 16 or 4 channels at a time. Only for files compiled for 64-bit ARM.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "kernels/epilogue.h"

namespace quantsr {

// x > 0 ? x : 0. Not vmaxq_f32, which lets NaN through.
static inline float32x4_t relu_neon(float32x4_t x) {
  return vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(x), vreinterpretq_u32_f32(x)));
}

// The first n of 4 G floats, or all of them; zeros behind.
template <int G>
static inline void load_neon(const float* from, int n, float32x4_t (&f)[G]) {
  float some[4 * G] = {};
  if (n < 4 * G) {
    if (n > 0) std::memcpy(some, from, static_cast<size_t>(n) * sizeof(float));
    from = some;
  }
  for (int g = 0; g < G; ++g) f[g] = vld1q_f32(from + 4 * g);
}

template <int G>
static inline void store_neon(float* to, int n, const float32x4_t (&f)[G]) {
  float some[4 * G];
  float* all = n < 4 * G ? some : to;
  for (int g = 0; g < G; ++g) vst1q_f32(all + 4 * g, f[g]);
  if (n > 0 && n < 4 * G) std::memcpy(to, some, static_cast<size_t>(n) * sizeof(float));
}

static inline int32x4_t quantize_neon(const Epilogue& e, float32x4_t f, int o) {
  const float32x4_t v = relu_neon(vaddq_f32(vmulq_f32(f, vld1q_f32(e.inv + o)), vld1q_f32(e.offset + o)));
  return vcvtnq_s32_f32(vminq_f32(v, vdupq_n_f32(e.levels)));
}

// The lowest byte of each lane.
static inline void store_codes_neon(uint8_t* codes, const int32x4_t (&q)[4]) {
  const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
  vst1q_u8(codes, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high))));
}
static inline void store_codes_neon(uint8_t* codes, const int32x4_t (&q)[1]) {
  const int16x4_t words = vmovn_s32(q[0]);
  const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
  std::memcpy(codes, &four, sizeof(four));
}

// f: channels o .. o + 4 G - 1 of pixel (y, x); some may lie past the last real channel.
template <int G>
static inline void finish_neon(const Epilogue& e, float32x4_t (&f)[G], int64_t y, int64_t x, int o) {
  const int left = e.channels - o;
  if (e.relu)
    for (int g = 0; g < G; ++g) f[g] = relu_neon(f[g]);
  if (e.skip.origin) {
    float32x4_t skip[G];
    load_neon(e.skip.origin + y * e.skip.row_stride + x * e.skip.pixel_stride + o, left, skip);
    for (int g = 0; g < G; ++g) f[g] = vaddq_f32(vmulq_n_f32(skip[g], e.gain), f[g]);
  }
  if (e.out.origin) store_neon(e.out.origin + y * e.out.row_stride + x * e.out.pixel_stride + o, left, f);
  if (e.codes.origin) {
    int32x4_t q[G];
    for (int g = 0; g < G; ++g) q[g] = quantize_neon(e, f[g], o + 4 * g);
    store_codes_neon(e.codes.origin + y * e.codes.row_stride + x * e.codes.pixel_stride + o, q);
  }
}

// The same for the sums of qconv2d, which are 2^Shift times what is meant.
template <int Shift>
static inline void finish_sums_neon(const Epilogue& e, const int32x4_t (&sums)[4], int64_t y, int64_t x, int o) {
  float32x4_t f[4];
  for (int g = 0; g < 4; ++g) {
    float32x4_t sum;
    if constexpr (Shift == 0)
      sum = vcvtq_f32_s32(sums[g]);
    else
      sum = vcvtq_n_f32_s32(sums[g], Shift);
    f[g] = vaddq_f32(vmulq_f32(sum, vld1q_f32(e.mul + o + 4 * g)), vld1q_f32(e.bias + o + 4 * g));
  }
  finish_neon(e, f, y, x, o);
}

}  // namespace quantsr
