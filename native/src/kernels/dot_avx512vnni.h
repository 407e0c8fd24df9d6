// The step of the qconv2d kernels for AVX-512 VNNI. Only for files compiled with it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quantsr {

// Adds the products of 4 unsigned codes with 4 weights for each of 16 outputs. As an intrinsic, GCC 12 spills the
// accumulators around it and loses half the speed.
static inline void dot4_vnni(__m512i& acc, __m512i codes, __m512i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(weights));
}

static inline __m512i broadcast4_vnni(const uint8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, 4);
  return _mm512_set1_epi32(four);
}

}  // namespace quantsr
