// qconv2d, direct, with AMX tiles: tdpbusd multiplies 16 pixels x 64 codes with 64 codes x 16 outputs. A block is 2
// rows of 16 pixels x 32 outputs: 4 tiles of sums, 2 of codes, 2 of weights. While the tiles of a block multiply, the
// vector units finish the sums of the block before.
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>

#include "kernels/amx.h"
#include "kernels/epilogue_avx512.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

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

class Tiles {  // configured while this lives
 public:
  Tiles() {
    TileConfig config;
    std::fill(config.row_bytes, config.row_bytes + 8, uint16_t{64});
    std::fill(config.rows, config.rows + 8, uint8_t{16});
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

// Where a block lies, and whether there is one.
struct Place {
  int64_t y = 0, x = 0;
  int o = -1;
};

// sums: [row 2][group of 16 outputs 2][pixel 16][16]
void multiply(const QConvJob& job, const Place& p, int32_t* sums) {
  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, row = job.in.row_stride, steps = steps_of_row(job.shape, pixel);
  const int8_t* weights = job.weights + (p.o / kPanel) * k * steps * 2 * kTileBytes;
  const uint8_t* codes = job.in.origin + (p.y - k / 2) * row + (p.x - k / 2) * pixel;
  const int32_t* init = job.init + p.o;
  _tile_loadd(0, init, 0);
  _tile_loadd(1, init + 16, 0);
  _tile_loadd(2, init, 0);
  _tile_loadd(3, init + 16, 0);
  for (int ky = 0; ky < k; ++ky, codes += row)
    for (int64_t s = 0; s < steps; ++s, weights += 2 * kTileBytes) {
      _tile_loadd(6, weights, 64);
      _tile_loadd(4, codes + 64 * s, pixel);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(7, weights + kTileBytes, 64);
      _tile_dpbusd(1, 4, 7);
      _tile_loadd(5, codes + 64 * s + row, pixel);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
}

template <class Flags>
void finish(const QConvJob& job, const Place& p, const int32_t* sums) {
  for (int g = 0; g < 2 && p.o + 16 * g < job.shape.out_channels; ++g) {
    const int o = p.o + 16 * g;
    const __m512 mul = _mm512_loadu_ps(job.epilogue.mul + o), bias = _mm512_loadu_ps(job.epilogue.bias + o);
    for (int i = 0; i < 2 && p.y + i < job.height; ++i) {
      const int32_t* from = sums + (2 * i + g) * 256;
      for (int64_t x = p.x; x < std::min(p.x + 16, job.width); x += 4, from += 64) {
        __m512 f[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r)
          f[r] = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(from + 16 * r)), mul), bias);
        const int pixels = static_cast<int>(std::min<int64_t>(job.width - x, 4));
        finish_pixels<Flags, 4>(job.epilogue, {p.y + i, x, pixels, o}, f);
      }
    }
  }
}

template <class Flags>
void rows(const QConvJob& job, int64_t begin, int64_t end, int32_t* scratch) {
  const Tiles tiles;
  int32_t *now = scratch, *before = scratch + 1024;
  Place last;
  for (int o = 0; o < job.shape.out_channels; o += kPanel)  // outermost: the weights of a panel stay in the L1 cache
    for (int64_t y = begin; y < end; y += 2)
      for (int64_t x = 0; x < job.width; x += 16) {
        const Place place{y, x, o};
        multiply(job, place, now);
        if (last.o >= 0) finish<Flags>(job, last, before);
        last = place;
        std::swap(now, before);
      }
  finish<Flags>(job, last, before);
}

}  // namespace

PackedConv pack_qconv_amx(const ConvShape& s, const int8_t* weights) {
  const int64_t pixel = (s.in_channels + kChannelGroup - 1) / kChannelGroup * kChannelGroup;
  const int64_t steps = steps_of_row(s, pixel), panels = (s.out_channels + kPanel - 1) / kPanel;
  PackedConv packed;
  packed.codes = AlignedArray<int8_t>(panels * s.kernel * steps * 2 * kTileBytes);
  packed.init = AlignedArray<int32_t>(panels * kPanel);
  packed.scratch_bytes = 2 * 4 * kTileBytes;
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
  with_flags(job.epilogue,
             [&](auto flags) { rows<decltype(flags)>(job, begin, end, reinterpret_cast<int32_t*>(scratch)); });
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
