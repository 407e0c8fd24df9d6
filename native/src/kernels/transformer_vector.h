// layer_norm, gelu and window_attention with vectors of any length: the loops that the files transformer_*.cc share.
// qwindow_attention (qattention_vector.h) uses them too.
//
// F: a vector of kLanes floats, 1 to 16 of them (see lanes_*.h). Attention has a lane for each pixel of a window, so
// that all its sums run within lanes, in the order of their definition. The sums of layer_norm have 16 lanes; where a
// vector has fewer, several make up the 16.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/attention_scratch.h"
#include "round_up.h"

namespace quantsr {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr int kSumLanes = 16;

// 2^x; see exact.py.
template <class F>
INLINE F exp2(F x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: at this size floats are 1 apart
  x = F::max(x, F(-125.0f));
  const F shifted = x + F(kRound);
  const F r = x - (shifted - F(kRound));
  F p = F::fma(F(0.009582853f), r, F(0.055906426f));
  p = F::fma(p, r, F(0.24024099f));
  p = F::fma(p, r, F(0.6931242f));
  p = F::fma(p, r, F(1.0f));
  return F::times_power(p, shifted);
}

// See exact.py.
template <class F>
INLINE F gelu(F x) {
  x = F::max(x, F(-5.0f));
  const F c = F::min(x, F(5.0f));
  const F s = c * c - F(12.5f);
  F p = F::fma(F(-8.975163e-16f), s, F(3.4077938e-14f));
  p = F::fma(p, s, F(-5.379316e-13f));
  p = F::fma(p, s, F(8.649913e-12f));
  p = F::fma(p, s, F(-2.1104724e-10f));
  p = F::fma(p, s, F(4.4250705e-09f));
  p = F::fma(p, s, F(-7.753521e-08f));
  p = F::fma(p, s, F(1.2847119e-06f));
  p = F::fma(p, s, F(-2.067796e-05f));
  p = F::fma(p, s, F(0.00032975755f));
  p = F::fma(p, s, F(-0.005623875f));
  p = F::fma(p, s, F(0.14136375f));
  return x * (c * p + F(0.5f));
}

// The first `count` floats, or as many as a vector has.
template <class F>
INLINE F load(const float* from, int count) {
  return count >= F::kLanes ? F::load(from) : F::load(from, count);
}

template <class F>
INLINE void store(F f, float* to, int count) {
  count >= F::kLanes ? f.store(to) : f.store(to, count);
}

// Where the channels of one pixel go.
struct Target {
  float* out;
  uint8_t* codes;
};

inline Target target(const Epilogue& e, int64_t y, int64_t x) {
  return {e.out.origin == nullptr ? nullptr : e.out.origin + y * e.out.row_stride + x * e.out.pixel_stride,
          e.codes.origin == nullptr ? nullptr : e.codes.origin + y * e.codes.row_stride + x * e.codes.pixel_stride};
}

// Codes of a vector: what the quantizer rounds.
template <class F>
INLINE F scaled(const Epilogue& e, F f, int c) {
  return f * F::load(e.inv + c) + F::load(e.offset + c);
}

// What becomes of the channels of a pixel, four vectors at a time where there are as many: value(first channel, how
// many there are at least from there on) makes a vector.
template <class F, class ValueOf>
INLINE void finish(const Epilogue& e, const Target& to, ValueOf value) {
  constexpr int kFour = 4 * F::kLanes;
  const int padded = round_up(e.channels, kChannelGroup);
  int c = 0;
  for (; c + kFour <= padded; c += kFour) {
    F f[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int left = e.channels - c - i * F::kLanes;
      f[i] = left > 0 ? value(c + i * F::kLanes, left) : F(0.0f);
      if (to.out != nullptr && left > 0) store(f[i], to.out + c + i * F::kLanes, left);
    }
    if (to.codes == nullptr) continue;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) f[i] = scaled(e, f[i], c + i * F::kLanes);
    F::store_codes(to.codes + c, f, e.levels);
  }
  for (; c < e.channels; c += F::kLanes) {
    const F f = value(c, e.channels - c);
    if (to.out != nullptr) store(f, to.out + c, e.channels - c);
    if (to.codes != nullptr) F::store_codes(to.codes + c, scaled(e, f, c), e.levels);
  }
}

template <class F>
void gelu_rows(const GeluJob& job, int64_t first, int64_t last) {
  for (int64_t y = first; y < last; ++y)
    for (int64_t x = 0; x < job.width; ++x) {
      const float* from = job.in.origin + y * job.in.row_stride + x * job.in.pixel_stride;
      finish<F>(job.epilogue, target(job.epilogue, y, x),
                [=](int c, int left) { return gelu(load<F>(from + c, left)); });
    }
}

// --- layer_norm: as many pixels at a time as a vector has lanes, so that roots and quotients are vectors too ---

// The lanes of one pixel's sum: V vectors. Adds the upper half to the lower until one vector is left.
template <class F, int V>
INLINE F folded(F (&lanes)[V]) {
#pragma GCC unroll 16
  for (int half = V / 2; half >= 1; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  return lanes[0];
}

// The same for the lanes of one vector of each pixel: their sums side by side.
template <class F>
INLINE F across(F (&rows)[F::kLanes]) {
  F::transpose(rows);
  return folded<F, F::kLanes>(rows);
}

template <class F, class Term>
INLINE F pixel_sum(const float* x, int channels, Term term) {
  constexpr int kVectors = kSumLanes / F::kLanes;
  F lanes[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) lanes[i] = F(0.0f);
  int c = 0;
  for (; c + kSumLanes <= channels; c += kSumLanes)
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) lanes[i] = term(F::load(x + c + i * F::kLanes), lanes[i], F::kLanes);
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i, c += F::kLanes)
    if (c + F::kLanes <= channels)
      lanes[i] = term(F::load(x + c), lanes[i], F::kLanes);
    else if (c < channels)
      lanes[i] = term(F::load(x + c, channels - c), lanes[i], channels - c);
  return folded<F, kVectors>(lanes);
}

// Pixels x .. of row y, of which `count` exist.
template <class F>
void norm_pixels(const NormJob& job, int64_t y, int64_t x, int count) {
  const int channels = job.epilogue.channels;
  const F n(static_cast<float>(channels));
  const float* from = job.in.origin + y * job.in.row_stride + x * job.in.pixel_stride;
  const int64_t step = job.in.pixel_stride;
  const auto pixel = [&](int i) { return from + (i < count ? i : count - 1) * step; };
  float means[F::kLanes], factors[F::kLanes];
  F sums[F::kLanes];
  for (int i = 0; i < F::kLanes; ++i)
    sums[i] = pixel_sum<F>(pixel(i), channels, [](F v, F sum, int) { return v + sum; });
  (across(sums) / n).store(means);
  for (int i = 0; i < F::kLanes; ++i) {
    const F mean(means[i]);
    sums[i] = pixel_sum<F>(pixel(i), channels, [mean](F v, F sum, int left) {
      const F d = left < F::kLanes ? (v - mean).first(left) : v - mean;
      return F::fma(d, d, sum);
    });
  }
  (F(1.0f) / (across(sums) / n + F(job.epsilon)).root()).store(factors);
  for (int i = 0; i < count; ++i) {
    const F mean(means[i]), factor(factors[i]);
    const float* of = pixel(i);
    finish<F>(job.epilogue, target(job.epilogue, y, x + i), [=, &job](int c, int left) {
      return (load<F>(of + c, left) - mean) * factor * F::load(job.scale + c) + F::load(job.offset + c);
    });
  }
}

template <class F>
void norm_rows(const NormJob& job, int64_t first, int64_t last) {
  for (int64_t y = first; y < last; ++y)
    for (int64_t x = 0; x < job.width; x += F::kLanes)
      norm_pixels<F>(job, y, x, static_cast<int>(job.width - x < F::kLanes ? job.width - x : F::kLanes));
}

// --- window_attention ---

// The scratch of a window, an AttentionLayout. Rows of `padded` pixels; padding repeats the last pixel.
struct Window {
  const float** pixels;
  int64_t* biases;
  float *queries, *mixed, *logits;
  int64_t padded;
};

// Where the pixels of a window begin, and the biases towards them; padding repeats the last pixel.
template <class T>
void place(const View<const T>& in, const WindowPart& part, int64_t padded, const T** pixels, int64_t* biases) {
  const int height = part.pixels / part.width;
  const int64_t stride = PositionBias::stride(height, part.width);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < part.width; ++x) biases[y * part.width + x] = x * stride + (height - 1 - y) * part.width;
  const T* row = in.origin + part.y * in.row_stride + part.x * in.pixel_stride;
  int64_t p = 0;
  for (; p < part.pixels; row += in.row_stride)
    for (int x = 0; x < part.width; ++x) pixels[p++] = row + x * in.pixel_stride;
  for (; p < padded; ++p) pixels[p] = pixels[p - 1];
}

inline Window window_of(const AttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const AttentionLayout at = attention_layout(part.pixels, job.heads * job.depth);
  const auto floats = [&](size_t begin) { return reinterpret_cast<float*>(scratch + begin); };
  Window w{};
  w.padded = static_cast<int64_t>(padded_pixels(part.pixels));
  w.queries = floats(at.queries);
  w.mixed = floats(at.mixed);
  w.logits = floats(at.logits);
  w.pixels = reinterpret_cast<const float**>(scratch + at.pixels);
  w.biases = reinterpret_cast<int64_t*>(scratch + at.biases);
  place(job.in, part, w.padded, w.pixels, w.biases);
  return w;
}

// queries[c][p] = pixels[p][c] * scale; reads more channels than there are where keys and values follow.
template <class F>
void gather_queries(const AttentionJob& job, const Window& w) {
  const F scale(job.scale);
  const int channels = job.heads * job.depth, all = 3 * channels;
  for (int c = 0; c < channels; c += F::kLanes)
    for (int64_t p = 0; p < w.padded; p += F::kLanes) {
      F rows[F::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < F::kLanes; ++i) rows[i] = load<F>(w.pixels[p + i] + c, all - c);
      F::transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < F::kLanes; ++i) (rows[i] * scale).store(w.queries + (c + i) * w.padded + p);
    }
}

// One head and a block of P vectors of pixels that see.
struct Seen {
  const float* const* pixels;  // that are seen
  const int64_t* biases;
  int count;  // of these
  int64_t padded;
};

// Keeps the compiler from holding the address of each channel in a register of its own.
INLINE const float* opaque(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// The products of N channels, as `add_products` has them.
template <class F, int P, int N>
struct Products {
  F queries[N][P];
  int64_t key;
  F most[P];

  // R pixels that are seen, at a time: so many chains of additions run side by side. from: where each of them starts.
  template <int R, class From>
  INLINE void add(const float* const* pixels, From from, float* logits) {
    const float* k[R];
    F l[R][P];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      k[r] = opaque(pixels[r] + key);
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) l[r][v] = F::load(from(r) + v * F::kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const F one(k[r][i]);
#pragma GCC unroll 2
        for (int v = 0; v < P; ++v) l[r][v] = F::fma(queries[i][v], one, l[r][v]);
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) {
        l[r][v].store(logits + (r * P + v) * F::kLanes);
        most[v] = F::max(l[r][v], most[v]);
      }
  }
};

// Adds the products of N channels to the logits, the first ones to the biases instead. most: the largest logits.
template <class F, int P, int N>
void add_products(const Seen& b, const float* queries, int64_t key, const float* bias, float* logits, F (&most)[P]) {
  Products<F, P, N> products;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) products.queries[i][v] = F::load(queries + i * b.padded + v * F::kLanes);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) products.most[v] = F(-INFINITY);
  products.key = key;
  const auto all = [&](auto from) {
    int r = 0;
    const auto next = [&](int i) { return from(r + i); };
    for (; r + F::kRows <= b.count; r += F::kRows)
      products.template add<F::kRows>(b.pixels + r, next, logits + r * P * F::kLanes);
    for (; r < b.count; ++r) products.template add<1>(b.pixels + r, next, logits + r * P * F::kLanes);
  };
  if (bias != nullptr)
    all([&](int r) { return bias + b.biases[r]; });
  else
    all([&](int r) { return logits + r * P * F::kLanes; });
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) most[v] = products.most[v];
}

// Logits of `count` pixels that are seen to weights, and their sums.
template <class F, int P>
void weigh(int count, const F (&most)[P], float* logits, F (&sums)[P]) {
  F total[P];
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) total[v] = F(0.0f);
  for (int r = 0; r < count; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) {
      float* at = logits + (r * P + v) * F::kLanes;
      const F e = exp2(F::load(at) - most[v]);
      total[v] = total[v] + e;
      e.store(at);
    }
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) sums[v] = total[v];
}

// mixed[c][p] = sum of weights times values, N channels.
template <class F, int P, int N>
void mix(const Seen& b, const float* weights, int64_t value, const F (&inverse)[P], float* mixed) {
  F sums[N][P];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) sums[i][v] = F(0.0f);
  for (int r = 0; r < b.count; ++r, weights += P * F::kLanes) {
    const float* from = opaque(b.pixels[r] + value);
    F e[P];
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) e[v] = F::load(weights + v * F::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const F one(from[i]);
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) sums[i][v] = F::fma(e[v], one, sums[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) (sums[i][v] * inverse[v]).store(mixed + i * b.padded + v * F::kLanes);
}

// Calls work(std::integral_constant<int, N>, first) for the channels of a head in groups of N that fit into registers.
template <class Work>
INLINE void each_group(int depth, Work work) {
  int first = 0;
  for (; depth - first >= 10; first += 10) work(std::integral_constant<int, 10>{}, first);
  for (; depth - first >= 5; first += 5) work(std::integral_constant<int, 5>{}, first);
  for (; depth - first >= 2; first += 2) work(std::integral_constant<int, 2>{}, first);
  for (; depth - first >= 1; first += 1) work(std::integral_constant<int, 1>{}, first);
}

// Pixels p .. p + P * kLanes - 1 of a window, head h.
template <class F, int P>
void attend(const AttentionJob& job, const WindowPart& part, const Window& w, int h, int64_t p) {
  const int64_t channel = int64_t{h} * job.depth, channels = int64_t{job.heads} * job.depth;
  const Seen b{w.pixels, w.biases, part.pixels, w.padded};
  const int64_t stride = PositionBias::stride(part.pixels / part.width, part.width);
  const float* bias = part.bias + h * part.width * stride + p;
  F most[P] = {}, inverse[P];
  each_group(job.depth, [&](auto group, int first) {
    add_products<F, P, decltype(group)::value>(b, w.queries + (channel + first) * w.padded + p,
                                               channels + channel + first, first == 0 ? bias : nullptr, w.logits, most);
  });
  weigh<F, P>(b.count, most, w.logits, inverse);
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) inverse[v] = F(1.0f) / inverse[v];
  each_group(job.depth, [&](auto group, int first) {
    mix<F, P, decltype(group)::value>(b, w.logits, 2 * channels + channel + first, inverse,
                                      w.mixed + (channel + first) * w.padded + p);
  });
}

// Results to the image, kLanes channels of kLanes pixels at a time.
template <class F>
void scatter(const Epilogue& e, const WindowPart& part, const float* mixed, int64_t padded) {
  for (int64_t p = 0; p < part.pixels; p += F::kLanes)
    for (int c = 0; c < e.channels; c += F::kLanes) {
      F rows[F::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < F::kLanes; ++i) rows[i] = F::load(mixed + (c + i) * padded + p);
      F::transpose(rows);
      for (int i = 0; i < F::kLanes && p + i < part.pixels; ++i) {
        const Target to = target(e, part.y + (p + i) / part.width, part.x + (p + i) % part.width);
        if (to.out != nullptr) store(rows[i], to.out + c, e.channels - c);
        if (to.codes != nullptr) F::store_codes(to.codes + c, scaled(e, rows[i], c), e.levels);
      }
    }
}

template <class F>
void attention(const AttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const Window w = window_of(job, part, scratch);
  gather_queries<F>(job, w);
  for (int h = 0; h < job.heads; ++h) {
    int64_t p = 0;
    for (; p + F::kBlock * F::kLanes <= w.padded; p += F::kBlock * F::kLanes) attend<F, F::kBlock>(job, part, w, h, p);
    for (; p < part.pixels; p += F::kLanes) attend<F, 1>(job, part, w, h, p);
  }
  scatter<F>(job.epilogue, part, w.mixed, w.padded);
}

}  // namespace
}  // namespace quantsr
