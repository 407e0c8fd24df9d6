// 24 registers.
#include <immintrin.h>

#include "kernels/peak.h"

#define FOUR(line) line(0) line(1) line(2) line(3)
#define ALL(line)                                                                                                \
  FOUR(line)                                                                                                     \
  line(4) line(5) line(6) line(7) line(8) line(9) line(10) line(11) line(12) line(13) line(14) line(15) line(16) \
      line(17) line(18) line(19) line(20) line(21) line(22) line(23)
#define VNNI(n) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #n "\n"
#define FMA(n) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #n "\n"
#define REGISTERS                                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31"

namespace quantsr {

double peak_vnni(int64_t rounds) {
  asm volatile("vpxord %%zmm30, %%zmm30, %%zmm30\n vpxord %%zmm31, %%zmm31, %%zmm31" ::: REGISTERS);
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(VNNI)::: REGISTERS);
  return 24.0 * 64 * static_cast<double>(rounds);
}

double peak_fma(int64_t rounds) {
  asm volatile("vpxord %%zmm30, %%zmm30, %%zmm30\n vpxord %%zmm31, %%zmm31, %%zmm31" ::: REGISTERS);
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(FMA)::: REGISTERS);
  return 24.0 * 16 * static_cast<double>(rounds);
}

}  // namespace quantsr
