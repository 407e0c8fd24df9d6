// 12 registers.
#include <immintrin.h>

#include "kernels/peak.h"

#define VNNI(n) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" #n "\n"
#define ALL(line) line(0) line(1) line(2) line(3) line(4) line(5) line(6) line(7) line(8) line(9) line(10) line(11)
#define REGISTERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15"

namespace quantsr {

double peak_vnni_256(int64_t rounds) {
  asm volatile("vpxor %%ymm14, %%ymm14, %%ymm14\n vpxor %%ymm15, %%ymm15, %%ymm15" ::: REGISTERS);
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(VNNI)::: REGISTERS);
  return 12.0 * 32 * static_cast<double>(rounds);
}

}  // namespace quantsr
