// qconv2d by F(4x4) or F(2x2) with sdot; see winograd.h. Tiles go in blocks of up to R, row by row: transform their
// inputs, then for each panel of 16 outputs multiply all positions (4 tiles x 16 sums in registers through all inputs),
// transform the sums back and finish. R = 8 lets a position's weights serve twice while they are near.
#include "kernels/dot_neon.h"
#include "kernels/epilogue_neon.h"
#include "kernels/kernels.h"
#include "kernels/winograd.h"
#include "round_up.h"

namespace quantsr {
namespace {

constexpr int R = 8;        // tiles of a block
constexpr int kPanel = 16;  // outputs

struct Bytes16 {
  uint8x16_t v;
  Bytes16 operator+(const Bytes16& o) const { return {vaddq_u8(v, o.v)}; }
  Bytes16 operator-(const Bytes16& o) const { return {vsubq_u8(v, o.v)}; }
};
struct Sums4 {
  int32x4_t v;
  Sums4 operator+(const Sums4& o) const { return {vaddq_s32(v, o.v)}; }
  Sums4 operator-(const Sums4& o) const { return {vsubq_s32(v, o.v)}; }
};

template <class F>
struct Scratch {
  Scratch(std::byte* at, int64_t channels)
      : inputs(reinterpret_cast<int8_t*>(at)), sums(reinterpret_cast<int32_t*>(at + F::kPositions * R * channels)) {}
  static size_t bytes(int64_t channels) { return F::kPositions * R * (channels + kPanel * sizeof(int32_t)); }
  int8_t* inputs;  // [position][tile][channel]
  int32_t* sums;   // [tile][position][16 outputs]
};

// The transformed inputs of one tile whose output begins at (y, x), 16 channels at a time.
template <class F>
void transform_tile(const QConvJob& job, int64_t y, int64_t x, int8_t* to) {
  const int64_t channels = job.in.pixel_stride;
  const uint8_t* from = job.in.origin + (y - 1) * job.in.row_stride + (x - 1) * channels;
  for (int64_t c = 0; c < channels; c += 16) {
    Bytes16 patch[F::kInput][F::kInput], components[F::kInput][F::kInput];
#pragma GCC unroll 6
    for (int i = 0; i < F::kInput; ++i)
#pragma GCC unroll 6
      for (int j = 0; j < F::kInput; ++j) patch[i][j].v = vld1q_u8(from + i * job.in.row_stride + j * channels + c);
    data_components<F>(patch, components);
    F::data_operands(components, [&](int n, const Bytes16& operand) {
      const uint8x16_t v = vaddq_u8(operand.v, vdupq_n_u8(job.offsets[n]));
      vst1q_s8(to + n * R * channels + c, vreinterpretq_s8_u8(v));
    });
  }
}

// All positions of the first `tiles` tiles of a block (or of up to 3 more) for 16 outputs.
template <class F>
void multiply(const Scratch<F>& scratch, int64_t tiles, int64_t channels, const int8_t* weights, const int32_t* init) {
  for (int n = 0; n < F::kPositions; ++n, weights += kPanel * channels, init += kPanel)
    for (int64_t first = 0; first < tiles; first += 4) {
      int32x4_t acc[4][4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) acc[r][g] = vld1q_s32(init + 4 * g);
      dot_neon(acc, scratch.inputs + (n * R + first) * channels, channels, weights, channels);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g)
          vst1q_s32(scratch.sums + ((first + r) * F::kPositions + n) * kPanel + 4 * g, acc[r][g]);
    }
}

// Outputs o..o+15 of one tile.
template <class F>
void finish_tile(const QConvJob& job, const int32_t* sums, int o, int64_t y, int64_t x) {
  constexpr int kShift = F::kGain == 16 ? 4 : 2;
  static_assert(1 << kShift == F::kGain);
  int32x4_t pixels[F::kTile][F::kTile][4];
  for (int g = 0; g < 4; ++g) {
    Sums4 out[F::kTile][F::kTile];
    F::outputs([&](int n) { return Sums4{vld1q_s32(sums + kPanel * n + 4 * g)}; }, out);
#pragma GCC unroll 4
    for (int i = 0; i < F::kTile; ++i)
#pragma GCC unroll 4
      for (int k = 0; k < F::kTile; ++k) pixels[i][k][g] = out[i][k].v;
  }
  for (int i = 0; i < F::kTile && y + i < job.height; ++i)
    for (int k = 0; k < F::kTile && x + k < job.width; ++k)
      finish_sums_neon<kShift>(job.epilogue, pixels[i][k], y + i, x + k, o);
}

struct Place {
  int64_t y, x;
};

template <class F>
void rows(const QConvJob& job, int64_t begin, int64_t end, std::byte* memory) {
  const int64_t channels = job.in.pixel_stride;
  const Scratch<F> scratch(memory, channels);
  const int64_t across = (job.width + F::kTile - 1) / F::kTile;
  const int64_t count = (end - begin + F::kTile - 1) / F::kTile * across;
  for (int64_t first = 0; first < count; first += R) {
    const int64_t tiles = count - first < R ? count - first : R;
    Place places[R];
    for (int64_t r = 0; r < tiles; ++r) {
      places[r] = {begin + (first + r) / across * F::kTile, (first + r) % across * F::kTile};
      transform_tile<F>(job, places[r].y, places[r].x, scratch.inputs + r * channels);
    }
    for (int o = 0; o < job.shape.out_channels; o += kPanel) {
      multiply<F>(scratch, tiles, channels, job.weights + int64_t{o} * channels * F::kPositions,
                  job.init + int64_t{o} * F::kPositions);
      for (int64_t r = 0; r < tiles; ++r)
        finish_tile<F>(job, scratch.sums + r * F::kPositions * kPanel, o, places[r].y, places[r].x);
    }
  }
}

template <class F>
PackedConv pack(const ConvShape& shape, const int8_t* weights) {
  PackedConv packed = pack_qconv_winograd<F>(shape, weights, kPanel, Bytes::s8);
  packed.scratch_bytes = Scratch<F>::bytes(round_up(shape.in_channels, kChannelGroup));
  return packed;
}

}  // namespace

PackedConv pack_qconv_f4x4_neon(const ConvShape& shape, const int8_t* weights) { return pack<F4x4>(shape, weights); }
PackedConv pack_qconv_f2x2_neon(const ConvShape& shape, const int8_t* weights) { return pack<F2x2>(shape, weights); }

void qconv_f4x4_neon(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  rows<F4x4>(job, begin, end, scratch);
}
void qconv_f2x2_neon(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  rows<F2x2>(job, begin, end, scratch);
}

}  // namespace quantsr
