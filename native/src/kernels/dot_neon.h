// The register block of the qconv2d kernels for NEON: 4 rows of inputs x 16 outputs. Only for files compiled with
// dotprod.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace quantsr {

// Inputs 4 Lane .. 4 Lane + 3 of each row, for outputs 0..15.
template <int Lane>
static inline void dot4_neon(int32x4_t (&acc)[4][4], const int8x16_t (&in)[4], const int8_t* weights) {
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const int8x16_t w = vld1q_s8(weights + 64 * Lane + 16 * g);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) acc[r][g] = vdotq_laneq_s32(acc[r][g], w, in[r], Lane);
  }
}

// Adds the products of `inputs` (a multiple of 16) signed bytes of each row, or, if Centred, of unsigned bytes minus
// 128. Rows lie `stride` bytes apart; weights: [input / 4][output][4 inputs].
template <bool Centred = false>
static inline void dot_neon(int32x4_t (&acc)[4][4], const int8_t* a, int64_t stride, const int8_t* weights,
                            int64_t inputs) {
  for (int64_t i = 0; i < inputs; i += 16, weights += 256) {
    int8x16_t in[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      in[r] = vld1q_s8(a + r * stride + i);
      if (Centred) in[r] = veorq_s8(in[r], vdupq_n_s8(-128));
    }
    dot4_neon<0>(acc, in, weights);
    dot4_neon<1>(acc, in, weights);
    dot4_neon<2>(acc, in, weights);
    dot4_neon<3>(acc, in, weights);
  }
}

}  // namespace quantsr
