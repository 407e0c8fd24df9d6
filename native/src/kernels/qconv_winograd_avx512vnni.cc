// qconv2d by F(4x4) or F(2x2) with vpdpbusd; see winograd.h. Tiles go in blocks of R, row by row: transform
// their inputs, then for each panel of 32 outputs multiply all positions (R x 32 sums in registers through all inputs),
// transform the sums back and finish. R = 8 keeps sums and inputs of a block near the first-level cache.
#include "kernels/dot_avx512vnni.h"
#include "kernels/epilogue_avx512.h"
#include "kernels/kernels.h"
#include "kernels/winograd.h"
#include "round_up.h"

namespace quantsr {
namespace {

constexpr int R = 8;        // tiles of a block
constexpr int kPanel = 32;  // outputs

struct Bytes64 {
  __m512i v;
  Bytes64 operator+(const Bytes64& o) const { return {_mm512_add_epi8(v, o.v)}; }
  Bytes64 operator-(const Bytes64& o) const { return {_mm512_sub_epi8(v, o.v)}; }
};
struct Sums16 {
  __m512i v;
  Sums16 operator+(const Sums16& o) const { return {_mm512_add_epi32(v, o.v)}; }
  Sums16 operator-(const Sums16& o) const { return {_mm512_sub_epi32(v, o.v)}; }
};

template <class F>
struct Scratch {
  explicit Scratch(std::byte* at, int64_t channels)
      : inputs(reinterpret_cast<uint8_t*>(at)),
        sums(reinterpret_cast<int32_t*>(at + F::kPositions * R * round_up(channels, 64))) {}
  static size_t bytes(int64_t channels) {
    return F::kPositions * R * (round_up(channels, 64) + kPanel * sizeof(int32_t));
  }
  uint8_t* inputs;  // [position][tile][channel]
  int32_t* sums;    // [tile][group of 16 outputs][position][16]
};

// The transformed inputs of one tile whose output begins at (y, x), 64 channels at a time.
template <class F>
void transform_tile(const QConvJob& job, int64_t y, int64_t x, uint8_t* to) {
  const int64_t channels = job.in.pixel_stride;
  const uint8_t* from = job.in.origin + (y - 1) * job.in.row_stride + (x - 1) * channels;
  for (int64_t c = 0; c < channels; c += 64) {
    const __mmask64 mask = channels - c >= 64 ? ~__mmask64{0} : (__mmask64{1} << (channels - c)) - 1;
    Bytes64 patch[F::kInput][F::kInput], components[F::kInput][F::kInput];
#pragma GCC unroll 6
    for (int i = 0; i < F::kInput; ++i)
#pragma GCC unroll 6
      for (int j = 0; j < F::kInput; ++j)
        patch[i][j].v = _mm512_maskz_loadu_epi8(mask, from + i * job.in.row_stride + j * channels + c);
    data_components<F>(patch, components);
    F::data_operands(components, [&](int n, const Bytes64& operand) {
      const __m512i v = _mm512_add_epi8(operand.v, _mm512_set1_epi8(static_cast<char>(job.offsets[n])));
      _mm512_mask_storeu_epi8(to + n * R * channels + c, mask, v);
    });
  }
}

// All positions of a block for 16 G outputs.
template <class F, int G>
void multiply(const uint8_t* inputs, int64_t channels, const int8_t* weights, const int32_t* init, int32_t* sums) {
  for (int n = 0; n < F::kPositions; ++n, inputs += R * channels, init += 16 * G) {
    __m512i acc[R][G];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) acc[r][g] = _mm512_loadu_si512(init + 16 * g);
    for (int64_t c = 0; c < channels; c += 16) {  // channels come in groups of 16
#pragma GCC unroll 4
      for (int step = 0; step < 4; ++step, weights += 64 * G) {
        __m512i w[G];
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) w[g] = _mm512_loadu_si512(weights + 64 * g);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const __m512i codes = broadcast4_vnni(inputs + r * channels + c + 4 * step);
#pragma GCC unroll 2
          for (int g = 0; g < G; ++g) dot4_vnni(acc[r][g], codes, w[g]);
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) _mm512_storeu_si512(sums + ((r * G + g) * F::kPositions + n) * 16, acc[r][g]);
  }
}

// Outputs o..o+15 of one tile.
template <class F, class Flags>
void finish_tile(const QConvJob& job, const int32_t* sums, int o, int64_t y, int64_t x) {
  Sums16 out[F::kTile][F::kTile];
  F::outputs([&](int n) { return Sums16{_mm512_loadu_si512(sums + 16 * n)}; }, out);
  const int pixels = job.width - x < F::kTile ? static_cast<int>(job.width - x) : F::kTile;
  const __m512 mul = _mm512_mul_ps(_mm512_loadu_ps(job.epilogue.mul + o), _mm512_set1_ps(1.0f / F::kGain));
  const __m512 bias = _mm512_loadu_ps(job.epilogue.bias + o);
#pragma GCC unroll 4
  for (int i = 0; i < F::kTile; ++i) {
    if (y + i >= job.height) return;
    __m512 f[F::kTile];
#pragma GCC unroll 4
    for (int k = 0; k < F::kTile; ++k) f[k] = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(out[i][k].v), mul), bias);
    finish_pixels<Flags, F::kTile>(job.epilogue, {y + i, x, pixels, o}, f);
  }
}

struct Place {
  int64_t y, x;
};

template <class F, class Flags>
void rows(const QConvJob& job, int64_t begin, int64_t end, std::byte* memory) {
  const int64_t channels = job.in.pixel_stride;
  const int outputs = round_up(job.shape.out_channels, kChannelGroup);
  const Scratch<F> scratch(memory, channels);
  const int64_t across = (job.width + F::kTile - 1) / F::kTile;
  const int64_t count = (end - begin + F::kTile - 1) / F::kTile * across;
  for (int64_t first = 0; first < count; first += R) {
    const int tiles = static_cast<int>(count - first < R ? count - first : R);
    Place places[R];
    for (int r = 0; r < tiles; ++r) {
      places[r] = {begin + (first + r) / across * F::kTile, (first + r) % across * F::kTile};
      transform_tile<F>(job, places[r].y, places[r].x, scratch.inputs + r * channels);
    }
    for (int o = 0; o < outputs; o += kPanel) {
      const int8_t* weights = job.weights + int64_t{o} * channels * F::kPositions;
      const int32_t* init = job.init + int64_t{o} * F::kPositions;
      const int groups = outputs - o >= kPanel ? 2 : 1;
      if (groups == 2)
        multiply<F, 2>(scratch.inputs, channels, weights, init, scratch.sums);
      else
        multiply<F, 1>(scratch.inputs, channels, weights, init, scratch.sums);
      for (int r = 0; r < tiles; ++r)
        for (int g = 0; g < groups; ++g)
          finish_tile<F, Flags>(job, scratch.sums + (r * groups + g) * F::kPositions * 16, o + 16 * g, places[r].y,
                                places[r].x);
    }
  }
}

template <class F>
void run(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  with_flags(job.epilogue, [&](auto flags) { rows<F, decltype(flags)>(job, begin, end, scratch); });
}

template <class F>
PackedConv pack(const ConvShape& shape, const int8_t* weights) {
  PackedConv packed = pack_qconv_winograd<F>(shape, weights, kPanel, Bytes::u8);
  packed.scratch_bytes = Scratch<F>::bytes(round_up(shape.in_channels, kChannelGroup));
  return packed;
}

}  // namespace

PackedConv pack_qconv_f4x4_avx512vnni(const ConvShape& shape, const int8_t* weights) {
  return pack<F4x4>(shape, weights);
}
PackedConv pack_qconv_f2x2_avx512vnni(const ConvShape& shape, const int8_t* weights) {
  return pack<F2x2>(shape, weights);
}

void qconv_f4x4_avx512vnni(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F4x4>(job, begin, end, scratch);
}
void qconv_f2x2_avx512vnni(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  run<F2x2>(job, begin, end, scratch);
}

}  // namespace quantsr
