// qconv2d, direct, with AMX tiles: tdpbusd multiplies 16 pixels x 64 codes with 64 codes x 16 outputs. A block is 2
// rows of 16 pixels x 32 outputs: 4 tiles of sums, 2 of codes, 2 of weights. While the tiles of a block multiply, the
// vector units finish the sums of the block before. The CPU looks only about two steps ahead, so this work is dealt out
// among the steps by hand: after every other tdpbusd, two pixels.
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>

#include "kernels/amx.h"
#include "kernels/epilogue_avx512.h"
#include "kernels/kernels.h"
#include "round_up.h"

namespace quantsr {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr int kPanel = 32;        // outputs
constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes

// The taps of a kernel row are one run of codes (see pack.h), taken 64 at a time; weights behind its end are 0.
int64_t steps_of_row(const ConvShape& s, int64_t pixel) { return (s.kernel * pixel + 63) / 64; }

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig whole_tiles() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.row_bytes[t] = 64, config.rows[t] = 16;
  return config;
}
alignas(64) constexpr TileConfig kWholeTiles = whole_tiles();  // not on the stack, where GCC 12 drops what it holds

class Tiles {  // configured while this lives; holding 0 at first
 public:
  Tiles() { _tile_loadconfig(&kWholeTiles); }
  ~Tiles() { _tile_release(); }
};

// Where a block lies, and whether there is one.
struct Place {
  int64_t y = 0, x = 0;
  int o = -1;
};

// sums: [row 2][group of 16 outputs 2][pixel 16][16], without init
constexpr int kRowSums = 512, kGroupSums = 256;

// Whether the second group of a block's outputs has some channels, not all.
bool is_part(const QConvJob& job, const Place& p) {
  const int left = job.epilogue.channels - p.o;
  return p.o >= 0 && left > 16 && left < kPanel;
}

// Finishes a block, two pixels of 32 outputs at a time; what has no second group of outputs or no second pixel is left
// to `finish_rest`. Part: as `is_part` says. Everything is held by value: a store could change what is read through a
// pointer.
template <class Flags, bool Relu, bool Part>
class Finish {
 public:
  Finish(const QConvJob& job, const Place& p, const int32_t* sums) {
    const Epilogue& e = job.epilogue;
    if (p.o < 0 || (!Part && e.channels - p.o < kPanel)) return;
    if (Part) last_ = static_cast<__mmask16>((1u << (e.channels - p.o - 16)) - 1);
    pairs_ = static_cast<int>(std::min<int64_t>(job.width - p.x, 16) / 2);
    rows_ = static_cast<int>(std::min<int64_t>(job.height - p.y, 2));
    for (int g = 0; g < 2; ++g) {
      const int o = p.o + 16 * g;
      init_[g] = _mm512_loadu_si512(job.init + o);
      mul_[g] = _mm512_loadu_ps(e.mul + o);
      bias_[g] = _mm512_loadu_ps(e.bias + o);
      if (Flags::kCodes) inv_[g] = _mm512_loadu_ps(e.inv + o), offset_[g] = _mm512_loadu_ps(e.offset + o);
    }
    gain_ = _mm512_set1_ps(e.gain), levels_ = _mm512_set1_ps(e.levels);
    skip_ = e.skip, out_ = e.out, codes_ = e.codes, sums_ = sums;
    const Block b{p.y, p.x, 0, p.o};
    if (Flags::kSkip) skip_.origin = at(e.skip, b);
    if (Flags::kOut) out_.origin = at(e.out, b);
    if (Flags::kCodes) codes_.origin = at(e.codes, b);
  }

  int pairs() const { return pairs_; }  // still to do
  INLINE void upper() {
    if (pairs_ > 0) pair(0);
  }
  INLINE void lower() {
    if (pairs_-- <= 0) return;
    if (rows_ == 2) pair(1);
    sums_ += 32;
    if (Flags::kSkip) skip_.origin += 2 * skip_.pixel_stride;
    if (Flags::kOut) out_.origin += 2 * out_.pixel_stride;
    if (Flags::kCodes) codes_.origin += 2 * codes_.pixel_stride;
  }

 private:
  INLINE void pair(int row) const {
    __m512 f[4];  // [pixel][group]
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512i sum = _mm512_loadu_si512(sums_ + row * kRowSums + r / 2 * 16 + r % 2 * kGroupSums);
      const __m512 acc = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, init_[r % 2]));
      f[r] = _mm512_add_ps(_mm512_mul_ps(acc, mul_[r % 2]), bias_[r % 2]);
      if (Relu) f[r] = _mm512_max_ps(f[r], _mm512_setzero_ps());
    }
    if (Flags::kSkip) {
      const float* skip = skip_.origin + row * skip_.row_stride;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const float* at = skip + r / 2 * skip_.pixel_stride + r % 2 * 16;
        const __m512 kept = Part && r % 2 == 1 ? _mm512_maskz_loadu_ps(last_, at) : _mm512_loadu_ps(at);
        f[r] = _mm512_add_ps(_mm512_mul_ps(kept, gain_), f[r]);
      }
    }
    if (Flags::kOut) {
      float* out = out_.origin + row * out_.row_stride;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        float* to = out + r / 2 * out_.pixel_stride + r % 2 * 16;
        Part&& r % 2 == 1 ? _mm512_mask_storeu_ps(to, last_, f[r]) : _mm512_storeu_ps(to, f[r]);
      }
    }
    if (Flags::kCodes) {
      __m512i q[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) q[r] = quantize_avx512(f[r], inv_[r % 2], offset_[r % 2], levels_);
      const __m512i bytes = narrow4_avx512(q[0], q[1], q[2], q[3]);
      uint8_t* codes = codes_.origin + row * codes_.row_stride;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_castsi512_si256(bytes));
      codes += codes_.pixel_stride;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_extracti64x4_epi64(bytes, 1));
    }
  }

  int pairs_ = 0, rows_ = 0;
  __mmask16 last_ = 0;  // channels of the second group
  __m512i init_[2];
  __m512 mul_[2], bias_[2], inv_[2], offset_[2], gain_, levels_;
  // At the next two pixels of the upper row.
  const int32_t* sums_ = nullptr;
  View<const float> skip_{};
  View<float> out_{};
  View<uint8_t> codes_{};
};

// The pixels of a block from the `first` one on.
template <class Flags>
[[gnu::noinline]] void finish_rest(const QConvJob& job, const Place& p, const int32_t* sums, int first) {
  for (int64_t x = p.x + first; x < std::min(p.x + 16, job.width); x += 2)
    for (int64_t y = p.y; y < std::min(p.y + 2, job.height); ++y)
      for (int o = p.o; o < std::min(p.o + kPanel, job.epilogue.channels); o += 16) {
        const int32_t* from = sums + (y - p.y) * kRowSums + (o - p.o) / 16 * kGroupSums + (x - p.x) * 16;
        const __m512i init = _mm512_loadu_si512(job.init + o);
        const __m512 mul = _mm512_loadu_ps(job.epilogue.mul + o), bias = _mm512_loadu_ps(job.epilogue.bias + o);
        __m512 f[2];
        for (int r = 0; r < 2; ++r) {
          const __m512i acc = _mm512_add_epi32(_mm512_loadu_si512(from + 16 * r), init);
          f[r] = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), mul), bias);
        }
        const int pixels = static_cast<int>(std::min<int64_t>(job.width - x, 2));
        finish_pixels<Flags, 2>(job.epilogue, {y, x, pixels, o}, f);
      }
}

// A step of a block: 64 codes of each pixel. The first one stores the sums of the block before, each just before its
// tile is used again: four stores in a row would stop the multiplication.
template <bool First, class Between, class Behind>
INLINE void step(const uint8_t* codes, int64_t row, int64_t pixel, const int8_t* weights, int32_t* sums,
                 Between between, Behind behind) {
  _tile_loadd(6, weights, 64);
  _tile_loadd(4, codes, pixel);
  if (First) {
    _tile_stored(0, sums, 64);
    _tile_zero(0);
  }
  _tile_dpbusd(0, 4, 6);
  _tile_loadd(7, weights + kTileBytes, 64);
  if (First) {
    _tile_stored(1, sums + kGroupSums, 64);
    _tile_zero(1);
  }
  _tile_dpbusd(1, 4, 7);
  between();
  _tile_loadd(5, codes + row, pixel);
  if (First) {
    _tile_stored(2, sums + kRowSums, 64);
    _tile_zero(2);
  }
  _tile_dpbusd(2, 5, 6);
  if (First) {
    _tile_stored(3, sums + kRowSums + kGroupSums, 64);
    _tile_zero(3);
  }
  _tile_dpbusd(3, 5, 7);
  behind();
}

// Multiplies a block and finishes the one before.
template <class Flags, bool Relu, bool Part>
void block(const QConvJob& job, const Place& p, const Place& before, int32_t* sums) {
  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, row = job.in.row_stride, steps = steps_of_row(job.shape, pixel);
  const int8_t* weights = job.weights + (p.o / kPanel) * k * steps * 2 * kTileBytes;
  const uint8_t* codes = job.in.origin + (p.y - k / 2) * row + (p.x - k / 2) * pixel;
  Finish<Flags, Relu, Part> finish(job, before, sums);
  const int finished = 2 * finish.pairs();
  const auto nothing = [] {};
  step<true>(codes, row, pixel, weights, sums, nothing, nothing);
  for (int ky = 0; ky < k; ++ky, codes += row)
    for (int64_t s = ky == 0; s < steps; ++s) {
      weights += 2 * kTileBytes;
      step<false>(codes + 64 * s, row, pixel, weights, sums, [&] { finish.upper(); }, [&] { finish.lower(); });
    }
  while (finish.pairs() > 0) finish.upper(), finish.lower();
  if (before.o >= 0 && finished < 16) finish_rest<Flags>(job, before, sums, finished);
}

template <class Flags, bool Relu>
void rows(const QConvJob& job, int64_t begin, int64_t end, int32_t* sums) {
  const Tiles tiles;
  Place last;
  for (int o = 0; o < job.shape.out_channels; o += kPanel)  // outermost: the weights of a panel stay in the L1 cache
    for (int64_t y = begin; y < end; y += 2)
      for (int64_t x = 0; x < job.width; x += 16) {
        const Place place{y, x, o};
        is_part(job, last) ? block<Flags, Relu, true>(job, place, last, sums)
                           : block<Flags, Relu, false>(job, place, last, sums);
        last = place;
      }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kGroupSums, 64);
  _tile_stored(2, sums + kRowSums, 64);
  _tile_stored(3, sums + kRowSums + kGroupSums, 64);
  finish_rest<Flags>(job, last, sums, 0);
}

}  // namespace

PackedConv pack_qconv_amx(const ConvShape& s, const int8_t* weights) {
  const int64_t pixel = round_up(s.in_channels, kChannelGroup);
  const int64_t steps = steps_of_row(s, pixel), panels = (s.out_channels + kPanel - 1) / kPanel;
  PackedConv packed;
  packed.codes = AlignedArray<int8_t>(panels * s.kernel * steps * 2 * kTileBytes);
  packed.init = AlignedArray<int32_t>(panels * kPanel);
  packed.scratch_bytes = 4 * kTileBytes;
  for (int o = 0; o < s.out_channels; ++o) {
    int8_t* tiles = packed.codes.data() + ((o / kPanel) * s.kernel * steps * 2 + o % kPanel / 16) * kTileBytes;
    for (int ky = 0; ky < s.kernel; ++ky)
      for (int kx = 0; kx < s.kernel; ++kx)
        for (int i = 0; i < s.in_channels; ++i, ++weights) {
          const int64_t at = kx * pixel + i;  // in the run
          tiles[(ky * steps + at / 64) * 2 * kTileBytes + at % 64 / 4 * 64 + o % 16 * 4 + at % 4] = *weights;
          packed.init[o] -= s.zero * *weights;
        }
  }
  return packed;
}

void qconv_amx(const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  int32_t* sums = reinterpret_cast<int32_t*>(scratch);
  with_flags(job.epilogue, [&](auto flags) {
    using Flags = decltype(flags);
    job.epilogue.relu ? rows<Flags, true>(job, begin, end, sums) : rows<Flags, false>(job, begin, end, sums);
  });
}

bool amx_available() {
  unsigned a, b, c, d;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kTile | kInt8)) != (kTile | kInt8)) return false;
#ifdef __linux__
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2): the kernel grants tiles on request
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace quantsr
