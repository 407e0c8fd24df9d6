// qwindow_attention with vectors of any length, as transformer_vector.h: a lane for each pixel that sees.
//
// Products are of bytes, four at a time: signed ones in the lanes, with their zero taken off (queries, and what the
// softmax gives), times unsigned ones of all lanes alike, as they are (keys and values). What the zero of the second
// amounts to is subtracted at the end: sum a (b - zero) = sum a b - zero sum a. Sums are whole numbers, so their order
// does not matter: codes are at most 15, heads have at most 256 channels and windows as many pixels (graph.cc), so
// |sum| <= 2 * 256 * 15 * 15 < 2^24, which int32 and float32 hold exactly.
#pragma once

#include "kernels/transformer_vector.h"

namespace quantsr {
namespace {

constexpr int kWordBytes = 4;  // of products at once

inline int words_of(int count) { return (count + kWordBytes - 1) / kWordBytes; }

inline uint32_t word_at(const uint8_t* p) {
  return p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

constexpr uint32_t kEachByte = 0x01010101;

// The scratch of a window of codes.
struct CodeWindow {
  const uint8_t** pixels;  // where each begins; padding repeats the last pixel
  int64_t* biases;         // where the biases towards it begin, in those of a head
  uint32_t* queries;       // [head][word of channels][pixel], signed
  uint32_t* values;        // [word of pixels][channel], unsigned
  uint32_t* weights;       // [word of pixels that are seen][block of pixels that see], signed
  float* mixed;            // [channel][pixel]
  float* logits;           // [pixel that is seen][block of pixels that see]
  int64_t padded, channels;
};

inline CodeWindow code_window(const QAttentionJob& job, const WindowPart& part, std::byte* scratch) {
  CodeWindow w{};
  w.padded = padded_pixels(part.pixels);
  w.channels = (int64_t{job.heads} * job.depth + 15) / 16 * 16;
  w.mixed = reinterpret_cast<float*>(scratch);
  w.logits = w.mixed + w.channels * w.padded;
  w.queries = reinterpret_cast<uint32_t*>(w.logits + 2 * kPixelLanes * w.padded);
  w.values = w.queries + int64_t{job.heads} * words_of(job.depth) * w.padded;
  w.weights = w.values + words_of(part.pixels) * w.channels;
  w.pixels = reinterpret_cast<const uint8_t**>(w.weights + words_of(part.pixels) * 2 * kPixelLanes);
  w.biases = reinterpret_cast<int64_t*>(w.pixels + w.padded);
  place(job.in, part, w.padded, w.pixels, w.biases);
  return w;
}

// Bytes of a word behind a head's channels become 0, so what they meet in a key does not matter.
inline void gather_queries(const QAttentionJob& job, const CodeWindow& w) {
  const int words = words_of(job.depth), left = job.depth % kWordBytes;
  const uint32_t zeros = job.query_zero * kEachByte, last = left == 0 ? ~0u : (1u << 8 * left) - 1;
  for (int h = 0; h < job.heads; ++h)
    for (int i = 0; i < words; ++i) {
      uint32_t* to = w.queries + (int64_t{h} * words + i) * w.padded;
      const uint32_t mask = i + 1 == words ? last : ~0u;
      for (int64_t p = 0; p < w.padded; ++p) {
        const uint32_t codes = word_at(w.pixels[p] + h * job.depth + i * kWordBytes);
        to[p] = (((codes | 0x80808080) - zeros) ^ 0x80808080) & mask;  // of each byte apart
      }
    }
}

// Pixels behind the last one meet weights of 0.
inline void gather_values(const QAttentionJob& job, const WindowPart& part, const CodeWindow& w) {
  const int channels = job.heads * job.depth;
  const int words = words_of(part.pixels);
  for (int i = 0; i < words; ++i) {
    const uint8_t* __restrict from[kWordBytes];
    for (int k = 0; k < kWordBytes; ++k) from[k] = w.pixels[i * kWordBytes + k] + 2 * channels;
    const uint8_t* __restrict a = from[0], * __restrict b = from[1], * __restrict c = from[2], * __restrict d = from[3];
    uint32_t* __restrict to = w.values + i * w.channels;
    for (int at = 0; at < channels; ++at)
      to[at] = a[at] | uint32_t{b[at]} << 8 | uint32_t{c[at]} << 16 | uint32_t{d[at]} << 24;
  }
}

// The logits of R pixels that are seen and a block of P vectors of pixels that see. ahead: the part of the sums that
// belongs to the keys' zero.
template <class F, int P, int R>
INLINE void score(const QAttentionJob& job, const CodeWindow& w, int h, int64_t p, int r, const float* bias,
                  const typename F::Ints (&ahead)[P], F (&most)[P]) {
  const int words = words_of(job.depth);
  const int64_t key = int64_t{job.heads + h} * job.depth;
  const uint32_t* queries = w.queries + int64_t{h} * words * w.padded + p;
  typename F::Sums sums[R][P];
#pragma GCC unroll 4
  for (int j = 0; j < R; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) sums[j][v] = F::no_sums();
  for (int i = 0; i < words; ++i, queries += w.padded) {
    typename F::Ints q[P];
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) q[v] = F::load_ints(queries + v * F::kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      const uint32_t k = word_at(w.pixels[r + j] + key + i * kWordBytes);
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) sums[j][v] = F::dot(sums[j][v], q[v], k);
    }
  }
  const F scale(job.scale);
#pragma GCC unroll 4
  for (int j = 0; j < R; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) {
      const F product = F::difference(F::total(sums[j][v]), ahead[v]);
      const F logit = F::fma(product, scale, F::load(bias + w.biases[r + j] + v * F::kLanes));
      logit.store(w.logits + ((r + j) * P + v) * F::kLanes);
      most[v] = F::max(logit, most[v]);
    }
}

template <class F, int P>
INLINE void score_all(const QAttentionJob& job, const WindowPart& part, const CodeWindow& w, int h, int64_t p,
                      F (&most)[P]) {
  const int words = words_of(job.depth);
  typename F::Ints ahead[P];
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) {
    typename F::Sums sums = F::no_sums();
    for (int i = 0; i < words; ++i) {
      const uint32_t* queries = w.queries + (int64_t{h} * words + i) * w.padded + p;
      sums = F::dot(sums, F::load_ints(queries + v * F::kLanes), job.key_zero * kEachByte);
    }
    ahead[v] = F::total(sums);
    most[v] = F(-INFINITY);
  }
  const int64_t stride = PositionBias::stride(part.pixels / part.width, part.width);
  const float* bias = part.bias + h * part.width * stride + p;
  int r = 0;
  for (; r + 4 <= part.pixels; r += 4) score<F, P, 4>(job, w, h, p, r, bias, ahead, most);
  for (; r < part.pixels; ++r) score<F, P, 1>(job, w, h, p, r, bias, ahead, most);
}

// Weights to codes, their zero taken off, four pixels that are seen to a word. factor: of a block.
template <class F, int P>
INLINE void round_weights(const QAttentionJob& job, const CodeWindow& w, int pixels, float offset,
                          const F (&factor)[P]) {
  const int words = words_of(pixels);
  for (int i = 0; i < words; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) {
      typename F::Ints codes[kWordBytes];
#pragma GCC unroll 4
      for (int k = 0; k < kWordBytes; ++k) {
        const int r = i * kWordBytes + k;
        codes[k] = r < pixels
                       ? F::codes(F::load(w.logits + (r * P + v) * F::kLanes) * factor[v] + F(offset), job.levels)
                       : F::ints(job.softmax_zero);
      }
      F::store_ints(F::word(codes, job.softmax_zero), w.weights + (i * P + v) * F::kLanes);
    }
}

// mixed[c][p] = sum of weights times values, N channels from `first` on. ahead: the part that belongs to the values'
// zero.
template <class F, int P, int N>
INLINE void mix_codes(const QAttentionJob& job, const CodeWindow& w, int words, int64_t first, int64_t p,
                      const typename F::Ints (&ahead)[P]) {
  typename F::Sums sums[N][P];
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) sums[c][v] = F::no_sums();
  const uint32_t *values = w.values + first, *weights = w.weights;
  for (int i = 0; i < words; ++i, values += w.channels, weights += P * F::kLanes) {
    typename F::Ints a[P];
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) a[v] = F::load_ints(weights + v * F::kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) sums[c][v] = F::dot(sums[c][v], a[v], values[c]);
  }
  const F mul(job.mul);
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v)
      (F::difference(F::total(sums[c][v]), ahead[v]) * mul).store(w.mixed + (first + c) * w.padded + p + v * F::kLanes);
}

template <class F, int P>
INLINE void mix_all(const QAttentionJob& job, const CodeWindow& w, int words, int h, int64_t p) {
  typename F::Ints ahead[P];
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) {
    typename F::Sums sums = F::no_sums();
    for (int i = 0; i < words; ++i)
      sums = F::dot(sums, F::load_ints(w.weights + (i * P + v) * F::kLanes), job.value_zero * kEachByte);
    ahead[v] = F::total(sums);
  }
  int64_t c = int64_t{h} * job.depth;
  const int64_t end = c + job.depth;
  if (job.depth % 10 == 0)
    for (; c < end; c += 10) mix_codes<F, P, 10>(job, w, words, c, p, ahead);
  for (; end - c >= 8; c += 8) mix_codes<F, P, 8>(job, w, words, c, p, ahead);
  for (; end - c >= 3; c += 3) mix_codes<F, P, 3>(job, w, words, c, p, ahead);
  for (; end - c >= 1; c += 1) mix_codes<F, P, 1>(job, w, words, c, p, ahead);
}

// Pixels p .. p + P * kLanes - 1 of a window, head h.
template <class F, int P>
void attend(const QAttentionJob& job, const WindowPart& part, const CodeWindow& w, int h, int64_t p) {
  F most[P], factor[P];
  score_all<F, P>(job, part, w, h, p, most);
  weigh<F, P>(part.pixels, most, w.logits, factor);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) factor[v] = F(job.inv) / factor[v];
  round_weights<F, P>(job, w, part.pixels, job.offset[h], factor);
  mix_all<F, P>(job, w, words_of(part.pixels), h, p);
}

template <class F>
void qattention(const QAttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const CodeWindow w = code_window(job, part, scratch);
  gather_queries(job, w);
  gather_values(job, part, w);
  for (int h = 0; h < job.heads; ++h) {
    int64_t p = 0;
    for (; p + F::kBlock * F::kLanes <= w.padded; p += F::kBlock * F::kLanes) attend<F, F::kBlock>(job, part, w, h, p);
    for (; p < part.pixels; p += F::kLanes) attend<F, 1>(job, part, w, h, p);
  }
  scatter<F>(job.epilogue, part, w.mixed, w.padded);
}

}  // namespace
}  // namespace quantsr
