// qconv2d, direct, with vpmaddwd, for codes and weights so wide that vpmaddubsw would saturate (8 bits): both as 16-bit
// words, products summed over 2 inputs into 32 bits. A register block is 6 pixels of a row x 16 outputs. The codes that
// the block reads are widened once, for all outputs.
#include "kernels/qconv_avx2.h"
#include "round_up.h"

namespace quantsr {
namespace {

constexpr int kPanel = 16;  // outputs

int64_t padded_inputs(const ConvShape& s) { return round_up(s.in_channels, kChannelGroup); }

// The pixels that a block reads of each of the kernel's rows.
int64_t window(const ConvShape& s) { return kPixels + s.kernel - 1; }

// corner: the top left pixel that the block reads. words: [kernel row][pixel][input]
void widen(const QConvJob& job, const uint8_t* corner, int16_t* words) {
  const int64_t run = window(job.shape) * job.in.pixel_stride;
  for (int ky = 0; ky < job.shape.kernel; ++ky, corner += job.in.row_stride, words += run)
    for (int64_t i = 0; i < run; i += 16)
      _mm256_store_si256(reinterpret_cast<__m256i*>(words + i),
                         _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(corner + i))));
}

// Adds `steps` steps of 2 inputs of one kernel row, which lie in one run.
inline void add_row(__m256i (&acc)[kPixels][2], const int16_t* a, int64_t pixel, const int16_t* weights,
                    int64_t steps) {
  for (int64_t s = 0; s < steps; ++s, a += 2, weights += 2 * kPanel) {
    const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 16));
#pragma GCC unroll 6
    for (int r = 0; r < kPixels; ++r) {
      const __m256i codes = broadcast4(a + r * pixel);
      acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(codes, w0));
      acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(codes, w1));
    }
  }
}

// Not inlined, because two of them in one function are too much for GCC 12: it runs out of registers.
template <class Flags>
__attribute__((noinline)) void block(const QConvJob& job, const int16_t* words, const int16_t* weights, int o,
                                     int64_t y, int64_t x) {
  __m256i acc[kPixels][2];
  load_init(job, o, acc);
  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, steps = k * pixel / 2;
  for (int ky = 0; ky < k; ++ky, words += window(job.shape) * pixel, weights += 2 * kPanel * steps)
    add_row(acc, words, pixel, weights, steps);
  finish_sums<Flags>(job, acc, o, y, x);
}

}  // namespace

PackedConv pack_qconv_words_avx2(const ConvShape& s, const int8_t* weights) {
  const int64_t inputs = padded_inputs(s), taps = int64_t{s.kernel} * s.kernel;
  const int64_t panels = (s.out_channels + kPanel - 1) / kPanel;
  PackedConv packed;
  packed.codes = AlignedArray<int8_t>(panels * taps * inputs * kPanel * 2);
  packed.init = AlignedArray<int32_t>(panels * kPanel);
  packed.scratch_bytes = s.kernel * window(s) * inputs * 2;
  auto* words = reinterpret_cast<int16_t*>(packed.codes.data());
  for (int o = 0; o < s.out_channels; ++o)
    for (int64_t t = 0; t < taps; ++t)
      for (int i = 0; i < s.in_channels; ++i, ++weights) {
        const int64_t row = ((o / kPanel * taps + t) * inputs + i / 2 * 2) * kPanel;
        words[row + o % kPanel * 2 + i % 2] = *weights;
        packed.init[o] -= s.zero * *weights;
      }
  return packed;
}

void qconv_words_avx2(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  const int half = job.shape.kernel / 2;
  const int64_t per_panel = int64_t{job.shape.kernel} * job.shape.kernel * job.in.pixel_stride * kPanel;
  const auto* weights = reinterpret_cast<const int16_t*>(job.weights);
  auto* words = reinterpret_cast<int16_t*>(scratch);
  with_flags(job.epilogue, [&](auto flags) {
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = 0; x < job.width; x += kPixels) {
        widen(job, job.in.origin + (y - half) * job.in.row_stride + (x - half) * job.in.pixel_stride, words);
        for (int o = 0; o < job.shape.out_channels; o += kPanel)
          block<decltype(flags)>(job, words, weights + o / kPanel * per_panel, o, y, x);
      }
  });
}

}  // namespace quantsr
