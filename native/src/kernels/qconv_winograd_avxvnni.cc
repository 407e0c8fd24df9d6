// qconv2d by F(4x4) or F(2x2) with vpdpbusd on 256 bits: 6 tiles x 16 sums stay in registers through all inputs.
#include "kernels/dot_avxvnni.h"
#include "kernels/qconv_winograd_avx2.h"

namespace quantsr {
namespace {

// One position of R tiles for 16 outputs. Not inlined, because GCC 12 then runs out of registers.
__attribute__((noinline)) void multiply(const uint8_t* inputs, int64_t channels, const int8_t* weights,
                                        const int32_t* init, int32_t* sums) {
  __m256i acc[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) acc[r][g] = load(init + 8 * g);
  for (int64_t c = 0; c < channels; c += 16) {  // channels come in groups of 16
#pragma GCC unroll 4
    for (int step = 0; step < 4; ++step, weights += 64) {
      const __m256i w0 = load(weights), w1 = load(weights + 32);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256i codes = broadcast4(inputs + r * channels + c + 4 * step);
        dot4_avxvnni(acc[r][0], codes, w0);
        dot4_avxvnni(acc[r][1], codes, w1);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) store(sums + kPanel * r + 8 * g, acc[r][g]);
}

struct Dot4 {
  static constexpr int kTogether = R;

  Dot4(const QConvJob&, int, int) {}

  void operator()(int, const uint8_t* inputs, int64_t channels, const int8_t* weights, const int32_t* init,
                  int32_t* sums) const {
    multiply(inputs, channels, weights, init, sums);
  }
};

}  // namespace

PackedConv pack_qconv_f4x4_avxvnni(const ConvShape& shape, const int8_t* weights) { return pack<F4x4>(shape, weights); }
PackedConv pack_qconv_f2x2_avxvnni(const ConvShape& shape, const int8_t* weights) { return pack<F2x2>(shape, weights); }

void qconv_f4x4_avxvnni(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F4x4, Dot4>(job, begin, end, scratch);
}
void qconv_f2x2_avxvnni(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F2x2, Dot4>(job, begin, end, scratch);
}

}  // namespace quantsr
