// conv2d by Winograd tiles with 256-bit FMA.
#include "kernels/conv2d_winograd_vector.h"
#include "kernels/epilogue_avx2.h"

namespace quantsr {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kPanel = 16;
  static constexpr int kTiles = 6;

  struct Lanes {
    __m256 v;
    Lanes() = default;
    explicit Lanes(__m256 x) : v(x) {}
    explicit Lanes(float x) : v(_mm256_set1_ps(x)) {}
    static Lanes load(const float* p) { return Lanes(_mm256_loadu_ps(p)); }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    static Lanes fma(Lanes a, Lanes b, Lanes c) { return Lanes(_mm256_fmadd_ps(a.v, b.v, c.v)); }
    Lanes operator+(Lanes b) const { return Lanes(_mm256_add_ps(v, b.v)); }
    Lanes operator-(Lanes b) const { return Lanes(_mm256_sub_ps(v, b.v)); }
  };

  // The first `count` floats, zeros behind them.
  static Lanes load(const float* p, int count) {
    if (count >= kLanes) return Lanes::load(p);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return Lanes(_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes)));
  }

  // sums[tile][output] = sum over inputs of values[tile][input] * weights[input][output], 16 outputs
  static void multiply(int tiles, int inputs, int, const float* values, int64_t values_stride, const float* weights,
                       float* sums, int64_t sums_stride) {
    for (; tiles >= kTiles; tiles -= kTiles, values += kTiles * values_stride, sums += kTiles * sums_stride)
      block<kTiles>(inputs, values, values_stride, weights, sums, sums_stride);
    switch (tiles) {
      case 5: return block<5>(inputs, values, values_stride, weights, sums, sums_stride);
      case 4: return block<4>(inputs, values, values_stride, weights, sums, sums_stride);
      case 3: return block<3>(inputs, values, values_stride, weights, sums, sums_stride);
      case 2: return block<2>(inputs, values, values_stride, weights, sums, sums_stride);
      case 1: return block<1>(inputs, values, values_stride, weights, sums, sums_stride);
    }
  }

  static void finish(const Epilogue& e, const Lanes (&out)[4], int64_t y, int64_t x, int pixels, int o) {
    __m256 f[4][1] = {{out[0].v}, {out[1].v}, {out[2].v}, {out[3].v}};
    with_flags(e, [&](auto flags) { finish_block<decltype(flags)>(e, {y, x, pixels, o}, f); });
  }

 private:
  template <int R>
  static void block(int inputs, const float* a, int64_t values_stride, const float* weights, float* sums,
                    int64_t sums_stride) {
    __m256 acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (int i = 0; i < inputs; ++i, ++a, weights += 16) {
      const __m256 w0 = _mm256_loadu_ps(weights), w1 = _mm256_loadu_ps(weights + 8);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256 in = _mm256_broadcast_ss(a + r * values_stride);
        acc[r][0] = _mm256_fmadd_ps(in, w0, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(in, w1, acc[r][1]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      _mm256_storeu_ps(sums + r * sums_stride, acc[r][0]);
      _mm256_storeu_ps(sums + r * sums_stride + 8, acc[r][1]);
    }
  }
};

}  // namespace

void conv2d_winograd_avx2(const Conv2dJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  float* room = reinterpret_cast<float*>(scratch);
  if (job.shape.kernel == 3) return run<Avx2, 3>(job, begin, end, room);
  run<Avx2, 5>(job, begin, end, room);
}

}  // namespace quantsr
