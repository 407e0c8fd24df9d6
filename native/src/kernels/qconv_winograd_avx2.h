// qconv2d by F(4x4) or F(2x2) with 256-bit vectors: what qconv_winograd_{avx2,avxvnni}.cc share; see winograd.h. Tiles
// go in blocks of R, row by row: transform their inputs, then for each panel of 16 outputs multiply all positions,
// transform the sums back and finish.
//
// Product: a class with kTogether, the tiles whose sums are in registers (a divisor of R). Made from a job, a panel's
// number and the count of positions, and called with (position, inputs, channels, weights, init, sums) for kTogether
// tiles.
#pragma once

#include <algorithm>

#include "kernels/epilogue_avx2.h"
#include "kernels/kernels.h"
#include "kernels/winograd.h"
#include "round_up.h"

namespace quantsr {
namespace {

constexpr int R = 6;        // tiles of a block
constexpr int kPanel = 16;  // outputs

struct Bytes32 {
  __m256i v;
  static Bytes32 load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Bytes32 all(uint8_t value) { return {_mm256_set1_epi8(static_cast<char>(value))}; }
  void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  Bytes32 operator+(const Bytes32& o) const { return {_mm256_add_epi8(v, o.v)}; }
  Bytes32 operator-(const Bytes32& o) const { return {_mm256_sub_epi8(v, o.v)}; }
};
struct Bytes16 {
  __m128i v;
  static Bytes16 load(const uint8_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
  static Bytes16 all(uint8_t value) { return {_mm_set1_epi8(static_cast<char>(value))}; }
  void store(uint8_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  Bytes16 operator+(const Bytes16& o) const { return {_mm_add_epi8(v, o.v)}; }
  Bytes16 operator-(const Bytes16& o) const { return {_mm_sub_epi8(v, o.v)}; }
};
struct Sums8 {
  __m256i v;
  Sums8 operator+(const Sums8& o) const { return {_mm256_add_epi32(v, o.v)}; }
  Sums8 operator-(const Sums8& o) const { return {_mm256_sub_epi32(v, o.v)}; }
};

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline __m256i broadcast4(const uint8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, 4);
  return _mm256_set1_epi32(four);
}

template <class F>
struct Scratch {
  explicit Scratch(std::byte* at, int64_t channels)
      : inputs(reinterpret_cast<uint8_t*>(at)),
        sums(reinterpret_cast<int32_t*>(at + F::kPositions * R * round_up(channels, 64))) {}
  static size_t bytes(int64_t channels) {
    return F::kPositions * R * (round_up(channels, 64) + kPanel * sizeof(int32_t));
  }
  uint8_t* inputs;  // [position][tile][channel]
  int32_t* sums;    // [position][tile][16 outputs]
};

// Transformed inputs of some channels of one tile.
template <class F, class T>
void transform(const uint8_t* from, int64_t row, int64_t pixel, const uint8_t* offsets, uint8_t* to) {
  T patch[F::kInput][F::kInput], components[F::kInput][F::kInput];
#pragma GCC unroll 6
  for (int i = 0; i < F::kInput; ++i)
#pragma GCC unroll 6
    for (int j = 0; j < F::kInput; ++j) patch[i][j] = T::load(from + i * row + j * pixel);
  data_components<F>(patch, components);
  F::data_operands(components,
                   [&](int n, const T& operand) { (operand + T::all(offsets[n])).store(to + n * R * pixel); });
}

// Those of all channels of the tile whose output begins at (y, x).
template <class F>
void transform_tile(const QConvJob& job, int64_t y, int64_t x, uint8_t* to) {
  const int64_t channels = job.in.pixel_stride, row = job.in.row_stride;
  const uint8_t* from = job.in.origin + (y - 1) * row + (x - 1) * channels;
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) transform<F, Bytes32>(from + c, row, channels, job.offsets, to + c);
  if (c < channels) transform<F, Bytes16>(from + c, row, channels, job.offsets, to + c);
}

// All positions of a block for 16 outputs.
template <class F, class Product>
void multiply_all(const Product& product, const Scratch<F>& scratch, int64_t tiles, int64_t channels,
                  const int8_t* weights, const int32_t* init) {
  const uint8_t* inputs = scratch.inputs;
  int32_t* sums = scratch.sums;
  for (int n = 0; n < F::kPositions; ++n) {
    for (int r = 0; r < tiles; r += Product::kTogether)
      product(n, inputs + r * channels, channels, weights, init, sums + kPanel * r);
    inputs += R * channels;
    weights += kPanel * channels;
    init += kPanel;
    sums += R * kPanel;
  }
}

// Outputs o..o+8G-1 of one tile.
template <class F, class Flags, int G>
void finish_tile(const QConvJob& job, const int32_t* sums, int o, int64_t y, int64_t x) {
  constexpr int T = F::kTile;
  Sums8 out[G][T][T];
  __m256 mul[G], bias[G];
#pragma GCC unroll 2
  for (int g = 0; g < G; ++g) {
    F::outputs([&](int n) { return Sums8{load(sums + n * R * 16 + 8 * g)}; }, out[g]);
    mul[g] = _mm256_mul_ps(_mm256_loadu_ps(job.epilogue.mul + o + 8 * g), _mm256_set1_ps(1.0f / F::kGain));
    bias[g] = _mm256_loadu_ps(job.epilogue.bias + o + 8 * g);
  }
  const int pixels = job.width - x < T ? static_cast<int>(job.width - x) : T;
#pragma GCC unroll 4
  for (int i = 0; i < T; ++i) {
    if (y + i >= job.height) return;
    __m256 f[T][G];
#pragma GCC unroll 4
    for (int k = 0; k < T; ++k)
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g)
        f[k][g] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(out[g][i][k].v), mul[g]), bias[g]);
    finish_block<Flags>(job.epilogue, {y + i, x, pixels, o}, f);
  }
}

// Fetches the residual of a tile into the second-level cache while its sums are computed. Line by line in order:
// without this, reading it in pieces of 8 channels costs a tenth of the layer.
template <class F>
void prefetch_skip(const QConvJob& job, int64_t y, int64_t x) {
  const View<const float>& skip = job.epilogue.skip;
  const int64_t rows = std::min<int64_t>(F::kTile, job.height - y), pixels = std::min<int64_t>(F::kTile, job.width - x);
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = skip.origin + (y + i) * skip.row_stride + x * skip.pixel_stride;
    for (int64_t k = 0; k < pixels * skip.pixel_stride; k += 16) _mm_prefetch(row + k, _MM_HINT_T1);
  }
}

struct Place {
  int64_t y, x;
};

template <class F, class Product, class Flags>
void rows(const QConvJob& job, int64_t begin, int64_t end, std::byte* memory) {
  constexpr int G = 4 / F::kTile;  // codes are narrowed by fours
  const int64_t channels = job.in.pixel_stride;
  const Scratch<F> scratch(memory, channels);
  const int64_t across = (job.width + F::kTile - 1) / F::kTile;
  const int64_t count = (end - begin + F::kTile - 1) / F::kTile * across;
  for (int64_t first = 0; first < count; first += R) {
    const int tiles = static_cast<int>(std::min<int64_t>(count - first, R));
    Place places[R];
    for (int r = 0; r < tiles; ++r) {
      places[r] = {begin + (first + r) / across * F::kTile, (first + r) % across * F::kTile};
      if (Flags::kSkip) prefetch_skip<F>(job, places[r].y, places[r].x);
      transform_tile<F>(job, places[r].y, places[r].x, scratch.inputs + r * channels);
    }
    for (int o = 0; o < job.shape.out_channels; o += kPanel) {
      multiply_all<F>(Product(job, o / kPanel, F::kPositions), scratch, tiles, channels,
                      job.weights + int64_t{o} * channels * F::kPositions, job.init + int64_t{o} * F::kPositions);
      for (int r = 0; r < tiles; ++r)
        for (int g = 0; g < 2; g += G)
          finish_tile<F, Flags, G>(job, scratch.sums + 16 * r + 8 * g, o + 8 * g, places[r].y, places[r].x);
    }
  }
}

template <class F, class Product>
void run(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  with_flags(job.epilogue, [&](auto flags) { rows<F, Product, decltype(flags)>(job, begin, end, scratch); });
}

template <class F>
PackedConv pack(const ConvShape& shape, const int8_t* weights) {
  PackedConv packed = pack_qconv_winograd<F>(shape, weights, kPanel, Bytes::u8);
  packed.scratch_bytes = Scratch<F>::bytes(round_up(shape.in_channels, kChannelGroup));
  return packed;
}

}  // namespace
}  // namespace quantsr
