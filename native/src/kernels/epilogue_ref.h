// The epilogue, one channel at a time: the definition of its result.
#pragma once

#include "kernels/epilogue.h"

namespace quantsr {

static inline float relu_ref(float x) { return x > 0.0f ? x : 0.0f; }

// v rounded half to even, for 0 <= v <= 2^22: where the addition rounds to, floats are 1 apart.
static inline float round_even_ref(float v) {
  constexpr float kOnes = 12582912.0f;  // 1.5 * 2^23
  return (v + kOnes) - kOnes;
}

static inline uint8_t quantize_ref(float x, float inv, float offset, float levels) {
  const float scaled = x * inv;
  const float v = relu_ref(scaled + offset);
  return static_cast<uint8_t>(round_even_ref(v < levels ? v : levels));
}

static inline void finish_ref(const Epilogue& e, float f, int64_t y, int64_t x, int o) {
  if (e.relu) f = relu_ref(f);
  if (e.skip.origin) {
    const float kept = e.skip.origin[y * e.skip.row_stride + x * e.skip.pixel_stride + o] * e.gain;
    f = kept + f;
  }
  if (e.out.origin) e.out.origin[y * e.out.row_stride + x * e.out.pixel_stride + o] = f;
  if (e.codes.origin)
    e.codes.origin[y * e.codes.row_stride + x * e.codes.pixel_stride + o] =
        quantize_ref(f, e.inv[o], e.offset[o], e.levels);
}

}  // namespace quantsr
