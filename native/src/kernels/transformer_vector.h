// layer_norm, gelu and window_attention with vectors of any length: the loops that the files transformer_*.cc share.
//
// F: a vector of kLanes floats, 1 to 16 of them (see lanes_*.h). Attention has a lane for each pixel of a window, so
// that all its sums run within lanes, in the order of their definition. The sums of layer_norm have 16 lanes; where a
// vector has fewer, several make up the 16.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/transformer.h"

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
  F p = F::fma(F(0.0013264727f), r, F(0.009671513f));
  p = F::fma(p, r, F(0.055507336f));
  p = F::fma(p, r, F(0.24022242f));
  p = F::fma(p, r, F(0.693147f));
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

// Where the channels of one pixel go.
struct Target {
  float* out;
  uint8_t* codes;
};

inline Target target(const Epilogue& e, int64_t y, int64_t x) {
  return {e.out.origin == nullptr ? nullptr : e.out.origin + y * e.out.row_stride + x * e.out.pixel_stride,
          e.codes.origin == nullptr ? nullptr : e.codes.origin + y * e.codes.row_stride + x * e.codes.pixel_stride};
}

// Channels c .. of a pixel, of which `left` exist.
template <class F>
INLINE void finish(const Epilogue& e, const Target& to, F f, int c, int left) {
  if (to.out != nullptr) left >= F::kLanes ? f.store(to.out + c) : f.store(to.out + c, left);
  if (to.codes != nullptr)
    F::store_codes(to.codes + c, f * F::load(e.inv + c) + F::load(e.offset + c), e.levels);
}

template <class F>
void gelu_rows(const GeluJob& job, int64_t first, int64_t last) {
  const int channels = job.epilogue.channels;
  for (int64_t y = first; y < last; ++y)
    for (int64_t x = 0; x < job.width; ++x) {
      const float* from = job.in.origin + y * job.in.row_stride + x * job.in.pixel_stride;
      const Target to = target(job.epilogue, y, x);
      int c = 0;
      for (; c + F::kLanes <= channels; c += F::kLanes)
        finish(job.epilogue, to, gelu(F::load(from + c)), c, F::kLanes);
      if (c < channels) finish(job.epilogue, to, gelu(F::load(from + c, channels - c)), c, channels - c);
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
    const Target to = target(job.epilogue, y, x + i);
    const auto normal = [&](F v, int c) {
      return (v - mean) * factor * F::load(job.scale + c) + F::load(job.offset + c);
    };
    int c = 0;
    for (; c + F::kLanes <= channels; c += F::kLanes)
      finish(job.epilogue, to, normal(F::load(pixel(i) + c), c), c, F::kLanes);
    if (c < channels) finish(job.epilogue, to, normal(F::load(pixel(i) + c, channels - c), c), c, channels - c);
  }
}

template <class F>
void norm_rows(const NormJob& job, int64_t first, int64_t last) {
  for (int64_t y = first; y < last; ++y)
    for (int64_t x = 0; x < job.width; x += F::kLanes)
      norm_pixels<F>(job, y, x, static_cast<int>(job.width - x < F::kLanes ? job.width - x : F::kLanes));
}

// --- window_attention ---

// The scratch of a window. Rows of `padded` pixels; padding repeats the last pixel.
struct Window {
  const float** pixels;  // where each begins
  float* queries;        // [channel][pixel], times the scale
  float* mixed;          // [channel][pixel]
  float* logits;         // [pixel that is seen][block of pixels that see]
  int64_t padded;
};

inline Window window_of(const AttentionJob& job, const WindowPart& part, std::byte* scratch) {
  const int64_t padded = (part.pixels + kPixelLanes - 1) / kPixelLanes * kPixelLanes;
  const int64_t channels = (job.heads * job.depth + 15) / 16 * 16;
  Window w{};
  w.padded = padded;
  w.queries = reinterpret_cast<float*>(scratch);
  w.mixed = w.queries + channels * padded;
  w.logits = w.mixed + channels * padded;
  w.pixels = reinterpret_cast<const float**>(w.logits + 2 * kPixelLanes * padded);
  const float* row = job.in.origin + part.y * job.in.row_stride + part.x * job.in.pixel_stride;
  int64_t p = 0;
  for (; p < part.pixels; row += job.in.row_stride)
    for (int x = 0; x < part.width; ++x) w.pixels[p++] = row + x * job.in.pixel_stride;
  for (; p < padded; ++p) w.pixels[p] = w.pixels[p - 1];
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
      for (int i = 0; i < F::kLanes; ++i)
        rows[i] = all - c >= F::kLanes ? F::load(w.pixels[p + i] + c) : F::load(w.pixels[p + i] + c, all - c);
      F::transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < F::kLanes; ++i) (rows[i] * scale).store(w.queries + (c + i) * w.padded + p);
    }
}

// One head and a block of P vectors of pixels that see.
struct Block {
  const float* const* pixels;  // that are seen
  int count;                   // of these
  int64_t padded;
};

// Adds the products of N channels to the logits. from: bias or the logits so far, `stride` floats from row to row.
template <class F, int P, int N>
void add_products(const Block& b, const float* queries, int64_t key, const float* from, int64_t stride, float* logits) {
  F q[N][P];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) q[i][v] = F::load(queries + i * b.padded + v * F::kLanes);
  for (int r = 0; r < b.count; ++r, from += stride, logits += P * F::kLanes) {
    const float* k = b.pixels[r] + key;
    F l[P];
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) l[v] = F::load(from + v * F::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const F one(k[i]);
#pragma GCC unroll 2
      for (int v = 0; v < P; ++v) l[v] = F::fma(q[i][v], one, l[v]);
    }
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) l[v].store(logits + v * F::kLanes);
  }
}

// Logits to weights; returns 1 / their sums.
template <class F, int P>
void weigh(const Block& b, float* logits, F (&inverse)[P]) {
  F most[P], total[P];
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) most[v] = F(-INFINITY), total[v] = F(0.0f);
  for (int r = 0; r < b.count; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) most[v] = F::max(F::load(logits + (r * P + v) * F::kLanes), most[v]);
  for (int r = 0; r < b.count; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) {
      float* at = logits + (r * P + v) * F::kLanes;
      const F e = exp2(F::load(at) - most[v]);
      total[v] = total[v] + e;
      e.store(at);
    }
#pragma GCC unroll 2
  for (int v = 0; v < P; ++v) inverse[v] = F(1.0f) / total[v];
}

// mixed[c][p] = sum of weights times values, N channels.
template <class F, int P, int N>
void mix(const Block& b, const float* weights, int64_t value, const F (&inverse)[P], float* mixed) {
  F sums[N][P];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < P; ++v) sums[i][v] = F(0.0f);
  for (int r = 0; r < b.count; ++r, weights += P * F::kLanes) {
    const float* from = b.pixels[r] + value;
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
  const Block b{w.pixels, part.pixels, w.padded};
  const float* bias = part.bias + int64_t{h} * part.pixels * w.padded + p;
  each_group(job.depth, [&](auto group, int first) {
    add_products<F, P, decltype(group)::value>(b, w.queries + (channel + first) * w.padded + p,
                                               channels + channel + first, first == 0 ? bias : w.logits,
                                               first == 0 ? w.padded : P * F::kLanes, w.logits);
  });
  F inverse[P];
  weigh<F, P>(b, w.logits, inverse);
  each_group(job.depth, [&](auto group, int first) {
    mix<F, P, decltype(group)::value>(b, w.logits, 2 * channels + channel + first, inverse,
                                      w.mixed + (channel + first) * w.padded + p);
  });
}

// Results to the image, kLanes channels of kLanes pixels at a time.
template <class F>
void scatter(const AttentionJob& job, const WindowPart& part, const Window& w) {
  const int channels = job.heads * job.depth;
  for (int64_t p = 0; p < part.pixels; p += F::kLanes)
    for (int c = 0; c < channels; c += F::kLanes) {
      F rows[F::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < F::kLanes; ++i) rows[i] = F::load(w.mixed + (c + i) * w.padded + p);
      F::transpose(rows);
      for (int i = 0; i < F::kLanes && p + i < part.pixels; ++i)
        finish(job.epilogue, target(job.epilogue, part.y + (p + i) / part.width, part.x + (p + i) % part.width), rows[i],
               c, channels - c);
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
  scatter<F>(job, part, w);
}

}  // namespace
}  // namespace quantsr
