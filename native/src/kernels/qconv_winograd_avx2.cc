// qconv2d by F(4x4) or F(2x2) with vpmaddubsw, which adds two products into a saturating 16-bit lane. Steps of 4 inputs
// are added up in 16 bits, as many as the panel's weights at a position allow (winograd_steps), then widened to 32
// bits.
#include "kernels/qconv_winograd_avx2.h"

namespace quantsr {
namespace {

constexpr int kTiles = 3;  // whose sums are in registers

// lane += products of 4 inputs and the weights of 8 outputs, summed by twos. The empty asm keeps GCC 12 from adding in
// another order, for which there are too few registers.
inline void add_pairs(__m256i& lane, bool first, __m256i codes, __m256i weights) {
  const __m256i sums = _mm256_maddubs_epi16(codes, weights);
  lane = first ? sums : _mm256_add_epi16(lane, sums);
  asm("" : "+x"(lane));
}

alignas(32) const int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Pairs of 16-bit lanes as 32-bit sums. In assembler because the ones shall stay in memory: no register is left for
// them.
inline __m256i widened(__m256i lane) {
  __m256i sums;
  asm("vpmaddwd %2, %1, %0" : "=x"(sums) : "x"(lane), "m"(kOnes));
  return sums;
}

// One position of kTiles tiles for 16 outputs, widened after every `Steps` steps of 4 inputs. Not inlined, because
// GCC 12 then runs out of registers.
template <int Steps>
__attribute__((noinline)) void multiply(const uint8_t* inputs, int64_t channels, const int8_t* weights,
                                        const int32_t* init, int32_t* sums) {
  __m256i acc[kTiles][2];
#pragma GCC unroll 3
  for (int r = 0; r < kTiles; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) acc[r][g] = load(init + 8 * g);
  for (int64_t c = 0; c < channels; c += 4 * Steps, weights += 64 * Steps) {
    __m256i lanes[kTiles][2];
#pragma GCC unroll 16
    for (int s = 0; s < Steps; ++s) {
      const __m256i w0 = load(weights + 64 * s), w1 = load(weights + 64 * s + 32);
#pragma GCC unroll 3
      for (int r = 0; r < kTiles; ++r) {
        const __m256i codes = broadcast4(inputs + r * channels + c + 4 * s);
        add_pairs(lanes[r][0], s == 0, codes, w0);
        add_pairs(lanes[r][1], s == 0, codes, w1);
      }
    }
#pragma GCC unroll 3
    for (int r = 0; r < kTiles; ++r)
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) acc[r][g] = _mm256_add_epi32(acc[r][g], widened(lanes[r][g]));
  }
#pragma GCC unroll 3
  for (int r = 0; r < kTiles; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) store(sums + 16 * r + 8 * g, acc[r][g]);
}

class PairSums {
 public:
  static constexpr int kTogether = kTiles;

  PairSums(const QConvJob& job, int panel, int positions) : steps_(job.steps + panel * positions) {}

  void operator()(int n, const uint8_t* inputs, int64_t channels, const int8_t* weights, const int32_t* init,
                  int32_t* sums) const {
    switch (steps_[n]) {
      case 1: return multiply<1>(inputs, channels, weights, init, sums);
      case 2: return multiply<2>(inputs, channels, weights, init, sums);
      case 4: return multiply<4>(inputs, channels, weights, init, sums);
      case 8: return multiply<8>(inputs, channels, weights, init, sums);
      default: return multiply<16>(inputs, channels, weights, init, sums);
    }
  }

 private:
  const int32_t* steps_;
};

template <class F>
PackedConv pack_with_steps(const ConvShape& shape, const int8_t* weights) {
  PackedConv packed = pack<F>(shape, weights);
  packed.steps = winograd_steps<F>(shape, packed.codes.data());
  if (packed.steps.size() == 0) return {};
  return packed;
}

}  // namespace

PackedConv pack_qconv_f4x4_avx2(const ConvShape& s, const int8_t* weights) { return pack_with_steps<F4x4>(s, weights); }
PackedConv pack_qconv_f2x2_avx2(const ConvShape& s, const int8_t* weights) { return pack_with_steps<F2x2>(s, weights); }

void qconv_f4x4_avx2(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F4x4, PairSums>(job, begin, end, scratch);
}
void qconv_f2x2_avx2(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F2x2, PairSums>(job, begin, end, scratch);
}

}  // namespace quantsr
