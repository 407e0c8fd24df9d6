// qconv2d, direct, with vpmaddubsw: codes times weights summed over 2 inputs into 16 bits, added up in 16 bits as long
// as that cannot overflow, then widened to 32. A register block is 6 pixels of a row x 16 outputs.
#include "kernels/qconv_avx2.h"

namespace quantsr {
namespace {

// One step adds at most 2 * (2^act_bits - 1) * 2^(weight_bits-1) to a 16-bit lane: 240 for 4 x 4 bits, so 136 steps of
// 4 inputs fit below 32768; 2 x 2 bits: 2730.
inline int steps_per_widening(const ConvShape& s) {
  const int most = 2 * ((1 << s.act_bits) - 1) * (1 << (s.weight_bits - 1));
  return 32767 / most;
}

// Adds `steps` steps of 4 inputs of one kernel row, which lie in one run (see pack.h); at most steps_per_widening()
// since the last widening.
inline void add_steps(__m256i (&sums)[kPixels][2], const uint8_t* a, int64_t pixel, const int8_t* weights,
                      int64_t steps) {
  for (int64_t s = 0; s < steps; ++s, a += 4, weights += 64) {
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
#pragma GCC unroll 6
    for (int r = 0; r < kPixels; ++r) {
      const __m256i codes = broadcast4(a + r * pixel);
      sums[r][0] = _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(codes, w0));
      sums[r][1] = _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(codes, w1));
    }
  }
}

inline void widen(__m256i (&acc)[kPixels][2], __m256i (&sums)[kPixels][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 6
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      acc[r][g] = _mm256_add_epi32(acc[r][g], _mm256_madd_epi16(sums[r][g], ones));
      sums[r][g] = _mm256_setzero_si256();
    }
}

template <class Flags>
void block(const QConvJob& job, const int8_t* weights, int o, int64_t y, int64_t x) {
  __m256i acc[kPixels][2], sums[kPixels][2];
  load_init(job, o, acc);
  for (int r = 0; r < kPixels; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();

  const int k = job.shape.kernel, most = steps_per_widening(job.shape);
  const int64_t pixel = job.in.pixel_stride, steps = k * pixel / 4;
  const uint8_t* a = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  int64_t room = most;
  for (int ky = 0; ky < k; ++ky, a += job.in.row_stride)
    for (int64_t done = 0; done < steps;) {
      const int64_t now = steps - done < room ? steps - done : room;
      add_steps(sums, a + 4 * done, pixel, weights, now);
      weights += 64 * now;
      done += now;
      room -= now;
      if (room == 0) widen(acc, sums), room = most;
    }
  widen(acc, sums);
  finish_sums<Flags>(job, acc, o, y, x);
}

}  // namespace

void qconv_avx2(const QConvJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.in.pixel_stride;
  with_flags(job.epilogue, [&](auto flags) {
    for (int64_t y = begin; y < end; ++y)
      for (int o = 0; o < job.shape.out_channels; o += 16)
        for (int64_t x = 0; x < job.width; x += kPixels)
          block<decltype(flags)>(job, job.weights + o * per_output, o, y, x);
  });
}

}  // namespace quantsr
