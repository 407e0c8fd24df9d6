// conv2d by Winograd tiles with vectors: the loops that conv2d_winograd_{avx2,avx512vnni,neon}.cc share. A block of
// tiles is transformed, multiplied at each position, and transformed back, one panel of outputs after the other, so
// that the weights of a position are read from the second-level cache once per block.
//
// Isa: Lanes (a vector of kLanes floats), kPanel (outputs of a weight panel), multiply (below), finish.
#pragma once

#include <algorithm>

#include "kernels/conv2d_winograd.h"
#include "round_up.h"

namespace quantsr {
namespace {

// From tile to tile, both of values and of sums: [position][channel].
template <int K>
constexpr int64_t tile_stride(int channels) {
  return int64_t{(K + 3) * (K + 3)} * channels + kWinogradGap;
}

// Along y first, a column of all channels at a time, so that the image is read in order. values: [y][x][channel]
template <class Isa, int K>
void input_tile(const Conv2dJob& job, int64_t y, int64_t x, int padded, float* values) {
  using F = typename Isa::Lanes;
  constexpr int kSide = K + 3;
  const float* corner = job.in.origin + (y - K / 2) * job.in.row_stride + (x - K / 2) * job.in.pixel_stride;
  for (int j = 0; j < kSide; ++j, corner += job.in.pixel_stride)
    for (int c = 0; c < padded; c += Isa::kLanes) {
      F d[kSide], t[kSide];
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) d[i] = Isa::load(corner + i * job.in.row_stride + c, job.shape.in_channels - c);
      transform_inputs<K>(d, t);
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) t[i].store(values + (i * kSide + j) * padded + c);
    }
  for (int i = 0; i < kSide; ++i, values += kSide * padded)
    for (int c = 0; c < padded; c += Isa::kLanes) {
      F d[kSide], t[kSide];
#pragma GCC unroll 8
      for (int j = 0; j < kSide; ++j) d[j] = F::load(values + j * padded + c);
      transform_inputs<K>(d, t);
#pragma GCC unroll 8
      for (int j = 0; j < kSide; ++j) t[j].store(values + j * padded + c);
    }
}

// sums: of one tile from output o on, `stride` floats from position to position.
template <class Isa, int K>
void output_tile(const Conv2dJob& job, int64_t y, int64_t x, int64_t end, const float* sums, int stride, int o) {
  using F = typename Isa::Lanes;
  constexpr int kSide = K + 3;
  F rows[4][kSide];
  for (int j = 0; j < kSide; ++j) {
    F d[kSide], t[4];
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) d[i] = F::load(sums + (i * kSide + j) * stride);
    transform_products<K>(d, t);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) rows[i][j] = t[i];
  }
  const F bias = F::load(job.bias + o);
  const int pixels = static_cast<int>(std::min<int64_t>(4, job.width - x));
  for (int i = 0; i < 4 && y + i < end; ++i) {
    F out[4];
    transform_products<K>(rows[i], out);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) out[j] = out[j] + bias;
    Isa::finish(job.epilogue, out, y + i, x, pixels, o);
  }
}

// A block of tiles: the values of `count` of them, and their sums for the outputs of one panel.
struct TileBlock {
  int count, channels, padded;
  const float* values;
  float* sums;
};

template <class Isa, int K>
void multiply_panel(const TileBlock& b, const float* weights, int outputs) {
  const int64_t from = tile_stride<K>(b.padded), to = tile_stride<K>(outputs);
  for (int n = 0; n < (K + 3) * (K + 3); ++n, weights += int64_t{b.channels} * outputs)
    Isa::multiply(b.count, b.channels, outputs, b.values + n * b.padded, from, weights, b.sums + n * outputs, to);
}

template <class Isa, int K>
void run(const Conv2dJob& job, int64_t begin, int64_t end, float* scratch) {
  constexpr int kPositions = (K + 3) * (K + 3);
  const int channels = job.shape.in_channels, padded = round_up(channels, kChannelGroup);
  const int outputs = round_up(job.shape.out_channels, kChannelGroup);
  const int64_t across = (job.width + 3) / 4, tiles = (end - begin + 3) / 4 * across;
  const int64_t blocks = (tiles + kWinogradTiles - 1) / kWinogradTiles, each = (tiles + blocks - 1) / blocks;
  float* sums = scratch + kWinogradTiles * tile_stride<K>(padded);
  for (int64_t first = 0; first < tiles; first += each) {
    const TileBlock b{static_cast<int>(std::min(each, tiles - first)), channels, padded, scratch, sums};
    const auto y = [&](int t) { return begin + (first + t) / across * 4; };
    const auto x = [&](int t) { return (first + t) % across * 4; };
    for (int t = 0; t < b.count; ++t) input_tile<Isa, K>(job, y(t), x(t), padded, scratch + t * tile_stride<K>(padded));
    for (int o = 0; o < outputs; o += Isa::kPanel) {
      const int wide = std::min(Isa::kPanel, outputs - o);
      multiply_panel<Isa, K>(b, job.weights + int64_t{o} * kPositions * channels, wide);
      for (int t = 0; t < b.count; ++t)
        for (int g = 0; g < wide; g += Isa::kLanes)
          output_tile<Isa, K>(job, y(t), x(t), end, sums + t * tile_stride<K>(wide) + g, wide, o + g);
    }
  }
}

}  // namespace
}  // namespace quantsr
