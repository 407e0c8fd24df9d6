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

inline uint32_t word_at(const uint8_t* p) {
  return p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

constexpr uint32_t kEachByte = 0x01010101;

// The scratch of a window of codes, a QAttentionLayout. Padding repeats the last pixel.
struct CodeWindow {
  const uint8_t** pixels;
  int64_t* biases;
  uint32_t *queries, *values, *weights;
  float *mixed, *logits;
  int64_t padded, channels;
};

inline CodeWindow code_window(const QAttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const QAttentionLayout at = qattention_layout(part.pixels, job.heads, job.depth);
  const auto floats = [&](size_t begin) { return reinterpret_cast<float*>(scratch + begin); };
  const auto words = [&](size_t begin) { return reinterpret_cast<uint32_t*>(scratch + begin); };
  CodeWindow w{};
  w.padded = static_cast<int64_t>(padded_pixels(part.pixels));
  w.channels = static_cast<int64_t>(padded_channels(job.heads * job.depth));
  w.mixed = floats(at.mixed);
  w.logits = floats(at.logits);
  w.queries = words(at.queries);
  w.values = words(at.values);
  w.weights = words(at.weights);
  w.pixels = reinterpret_cast<const uint8_t**>(scratch + at.pixels);
  w.biases = reinterpret_cast<int64_t*>(scratch + at.biases);
  place(job.in, part, w.padded, w.pixels, w.biases);
  return w;
}

// Bytes of a word behind a head's channels become 0, so what they meet in a key does not matter.
template <class F>
void gather_queries(const QAttentionJob& job, const CodeWindow& w) {
  const int words = words_of(job.depth), left = job.depth % kWordBytes;
  const uint32_t last = left == 0 ? ~0u : (1u << 8 * left) - 1;
  uint32_t* const queries = w.queries;
  const int64_t padded = w.padded;
  for (int64_t p = 0; p < padded; ++p) {
    const uint8_t* from = w.pixels[p];
    uint32_t* to = queries + p;
    for (int h = 0; h < job.heads; ++h, from += job.depth)
      for (int i = 0; i < words; ++i, to += padded) *to = word_at(from + i * kWordBytes);
  }
  for (int64_t i = 0; i < int64_t{job.heads} * words; ++i)
    for (int64_t p = 0; p < padded; p += F::kLanes) {
      uint32_t* at = queries + i * padded + p;
      F::store_ints(F::less(F::load_ints(at), job.query_zero, i % words + 1 == words ? last : ~0u), at);
    }
}

// Pixels behind the last one meet weights of 0. Reads and writes whole groups of channels, so it may read some bytes of
// the next pixel, which lead to nothing; behind the last one slots have room (kReadBehind).
inline void gather_values(const QAttentionJob& job, const WindowPart& part, const CodeWindow& w) {
  const int64_t channels = w.channels;
  for (int i = 0; i < words_of(part.pixels); ++i) {
    const uint8_t* const* pixels = w.pixels + i * kWordBytes;
    const int64_t at = 2 * int64_t{job.heads} * job.depth;
    const uint8_t* __restrict a = pixels[0] + at;
    const uint8_t* __restrict b = pixels[1] + at;
    const uint8_t* __restrict c = pixels[2] + at;
    const uint8_t* __restrict d = pixels[3] + at;
    uint32_t* __restrict to = w.values + i * channels;
    for (int64_t k = 0; k < channels; ++k)
      to[k] = a[k] | uint32_t{b[k]} << 8 | uint32_t{c[k]} << 16 | uint32_t{d[k]} << 24;
  }
}

// What the logits of a head and a block of pixels that see are made of. By value, so that the compiler knows that no
// store changes it.
struct Scores {
  const uint8_t* const* pixels;  // that are seen
  const int64_t* biases;
  const float* bias;
  const uint32_t* queries;
  float* logits;
  int64_t padded, key;  // key: its first channel
  int words, count;     // of channels; of pixels that are seen
  uint32_t key_zero;
  float scale;
};

// Logits of P vectors of pixels that see, and the largest ones. W: the number of words, or 0 for any.
template <class F, int P, int W>
void score(const Scores s, F (&largest)[P]) {
  constexpr int kHeld = W > 0 ? W : 1;
  const int words = W > 0 ? W : s.words;
  const F scale(s.scale);
  F most[P];
  typename F::Ints held[kHeld][P], ahead[P];
  const auto query = [&](int i, int v) { return F::load_ints(s.queries + i * s.padded + v * F::kLanes); };
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) {
    typename F::Sums sums = F::begin(F::ints(0));
#pragma GCC unroll 8
    for (int i = 0; i < words; ++i) {
      if (W > 0) held[i][v] = query(i, v);
      sums = F::dot(sums, W > 0 ? held[i][v] : query(i, v), s.key_zero * kEachByte);
    }
    ahead[v] = F::total(sums, F::ints(0));
    most[v] = F(-INFINITY);
  }
  const auto pixels = [&](auto some, int r) {
    constexpr int R = decltype(some)::value;
    typename F::Sums sums[R][P];
    const uint8_t* key[R];
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      key[j] = s.pixels[r + j] + s.key;
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) sums[j][v] = F::begin(ahead[v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < words; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) {
        const uint32_t k = word_at(key[j] + i * kWordBytes);
#pragma GCC unroll 2
        for (int v = 0; v < P; ++v) sums[j][v] = F::dot(sums[j][v], W > 0 ? held[i][v] : query(i, v), k);
      }
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      const float* from = s.bias + s.biases[r + j];
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) {
        const F logit = F::fma(F::floats(F::total(sums[j][v], ahead[v])), scale, F::load(from + v * F::kLanes));
        logit.store(s.logits + ((r + j) * P + v) * F::kLanes);
        most[v] = F::max(logit, most[v]);
      }
    }
  };
  int r = 0;
  for (; r + 4 <= s.count; r += 4) pixels(std::integral_constant<int, 4>{}, r);
  for (; r < s.count; ++r) pixels(std::integral_constant<int, 1>{}, r);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) largest[v] = most[v];
}

// Weights to codes, their zero taken off, four pixels that are seen to a word. factor: of each pixel that sees. ahead:
// the sums of codes times the values' zero.
template <class F, int P>
void round_weights(const QAttentionJob& job, const CodeWindow& w, int count, float offset, const F (&factor)[P],
                   typename F::Ints (&ahead)[P]) {
  const float *logits = w.logits, levels = job.levels;
  const uint32_t zero = job.softmax_zero, value_zeros = job.value_zero * kEachByte;
  uint32_t* weights = w.weights;
  typename F::Sums sums[P];
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) sums[v] = F::begin(F::ints(0));
  const auto word = [&](int i, int pixels) {
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) {
      typename F::Ints codes[kWordBytes];
#pragma GCC unroll 4
      for (int k = 0; k < kWordBytes; ++k) {
        const float* at = logits + ((i * kWordBytes + k) * P + v) * F::kLanes;
        codes[k] = k < pixels ? F::codes(F::fma(F::load(at), factor[v], F(offset)), levels) : F::ints(zero);
      }
      const typename F::Ints bytes = F::less(F::word(codes), zero, ~0u);
      F::store_ints(bytes, weights + (i * P + v) * F::kLanes);
      sums[v] = F::dot(sums[v], bytes, value_zeros);
    }
  };
  int i = 0;
  for (; (i + 1) * kWordBytes <= count; ++i) word(i, kWordBytes);
  if (count % kWordBytes != 0) word(i, count % kWordBytes);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) ahead[v] = F::total(sums[v], F::ints(0));
}

// mixed[c][p] = sum of weights times values, N channels.
template <class F, int P, int N>
void mix_codes(const uint32_t* weights, const uint32_t* values, int64_t stride, int words, float mul,
               const typename F::Ints (&ahead)[P], float* mixed, int64_t padded) {
  typename F::Sums sums[N][P];
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) sums[c][v] = F::begin(ahead[v]);
  for (int i = 0; i < words; ++i, values += stride, weights += P * F::kLanes) {
    typename F::Ints a[P];
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) a[v] = F::load_ints(weights + v * F::kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) sums[c][v] = F::dot(sums[c][v], a[v], values[c]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v)
      (F::floats(F::total(sums[c][v], ahead[v])) * F(mul)).store(mixed + c * padded + v * F::kLanes);
}

// Pixels p .. p + P * kLanes - 1 of a window, head h.
template <class F, int P>
void attend(const QAttentionJob& job, const WindowPart& part, const CodeWindow& w, int h, int64_t p) {
  const int words = words_of(job.depth), count = part.pixels;
  const int64_t stride = PositionBias::stride(count / part.width, part.width),
                channels = int64_t{job.heads} * job.depth;
  const Scores s{w.pixels,
                 w.biases,
                 part.bias + h * part.width * stride + p,
                 w.queries + int64_t{h} * words * w.padded + p,
                 w.logits,
                 w.padded,
                 channels + h * job.depth,
                 words,
                 count,
                 job.key_zero,
                 job.scale};
  F most[P], factor[P];
  switch (words) {  // heads of 10, 16 and 32 channels are common
    case 3: score<F, P, 3>(s, most); break;
    case 4: score<F, P, 4>(s, most); break;
    case 8: score<F, P, F::kWords == 8 ? 8 : 0>(s, most); break;
    default: score<F, P, 0>(s, most);
  }
  weigh<F, P>(count, most, w.logits, factor);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) factor[v] = F(job.inv) / factor[v];
  typename F::Ints ahead[P];
  round_weights<F, P>(job, w, count, job.offset[h], factor, ahead);
  const auto mix = [&](auto some, int64_t c) {
    mix_codes<F, P, decltype(some)::value>(w.weights, w.values + c, w.channels, words_of(count), job.mul, ahead,
                                           w.mixed + c * w.padded + p, w.padded);
  };
  int64_t c = int64_t{h} * job.depth;
  const int64_t end = c + job.depth;
  if (job.depth % 10 == 0)
    for (; c < end; c += 10) mix(std::integral_constant<int, 10>{}, c);
  for (; end - c >= 8; c += 8) mix(std::integral_constant<int, 8>{}, c);
  for (; end - c >= 3; c += 3) mix(std::integral_constant<int, 3>{}, c);
  for (; end - c >= 1; c += 1) mix(std::integral_constant<int, 1>{}, c);
}

template <class F>
void qattention(const QAttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const CodeWindow w = code_window(job, part, scratch);
  gather_queries<F>(job, w);
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
