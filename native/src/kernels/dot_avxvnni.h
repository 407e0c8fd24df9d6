// The step of the qconv2d kernels for AVX-VNNI. Only for files compiled with it.
#pragma once

#include <immintrin.h>

namespace quantsr {

// Adds the products of 4 unsigned codes with 4 weights for each of 8 outputs. In assembler for the reason given in
// dot_avx512vnni.h; {vex}, because without it the same words mean the instruction of AVX-512.
static inline void dot4_avxvnni(__m256i& acc, __m256i codes, __m256i weights) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(weights));
}

}  // namespace quantsr
