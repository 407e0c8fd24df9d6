// conv2d by Winograd tiles with AVX-512 FMA.
#include "kernels/conv2d_winograd_vector.h"
#include "kernels/epilogue_avx512.h"

namespace quantsr {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kPanel = 64;

  struct Lanes {
    __m512 v;
    Lanes() = default;
    explicit Lanes(__m512 x) : v(x) {}
    explicit Lanes(float x) : v(_mm512_set1_ps(x)) {}
    static Lanes load(const float* p) { return Lanes(_mm512_loadu_ps(p)); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    static Lanes fma(Lanes a, Lanes b, Lanes c) { return Lanes(_mm512_fmadd_ps(a.v, b.v, c.v)); }
    Lanes operator+(Lanes b) const { return Lanes(_mm512_add_ps(v, b.v)); }
    Lanes operator-(Lanes b) const { return Lanes(_mm512_sub_ps(v, b.v)); }
  };

  // The first `count` floats, zeros behind them.
  static Lanes load(const float* p, int count) {
    if (count >= kLanes) return Lanes::load(p);
    return Lanes(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
  }

  // sums[tile][output] = sum over inputs of values[tile][input] * weights[input][output]; a register block is up to
  // kTiles tiles x 16 G outputs.
  static void multiply(int tiles, int inputs, int outputs, const float* values, int64_t values_stride,
                       const float* weights, float* sums, int64_t sums_stride) {
    const Matrices m{inputs, values, values_stride, weights, sums, sums_stride};
    switch (outputs / 16) {
      case 1: return all_rows<8, 1>(tiles, m);
      case 2: return all_rows<8, 2>(tiles, m);
      case 3: return all_rows<8, 3>(tiles, m);
      default: return all_rows<6, 4>(tiles, m);
    }
  }

  static void finish(const Epilogue& e, const Lanes (&out)[4], int64_t y, int64_t x, int pixels, int o) {
    const __m512 sums[4][1] = {{out[0].v}, {out[1].v}, {out[2].v}, {out[3].v}};
    finish_avx512<1>(e, {y, x, pixels, o}, sums);
  }

 private:
  struct Matrices {
    int inputs;
    const float* values;
    int64_t values_stride;
    const float* weights;
    float* sums;
    int64_t sums_stride;
  };

  template <int R, int G>
  static void all_rows(int tiles, Matrices m) {
    for (; tiles >= R; tiles -= R, m.values += R * m.values_stride, m.sums += R * m.sums_stride) block<R, G>(m);
    if (tiles > 0) last_rows<R - 1, G>(tiles, m);
  }

  template <int R, int G>
  static void last_rows(int tiles, const Matrices& m) {
    if (tiles == R) return block<R, G>(m);
    if constexpr (R > 1) last_rows<R - 1, G>(tiles, m);
  }

  template <int R, int G>
  static void block(const Matrices& m) {
    __m512 acc[R][G];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) acc[r][g] = _mm512_setzero_ps();
    const float *a = m.values, *weights = m.weights;
    for (int i = 0; i < m.inputs; ++i, ++a, weights += 16 * G) {
      __m512 w[G];
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) w[g] = _mm512_loadu_ps(weights + 16 * g);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 in = _mm512_set1_ps(a[r * m.values_stride]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[r][g] = _mm512_fmadd_ps(in, w[g], acc[r][g]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) _mm512_storeu_ps(m.sums + r * m.sums_stride + 16 * g, acc[r][g]);
  }
};

}  // namespace

void conv2d_winograd_avx512vnni(const Conv2dJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  float* room = reinterpret_cast<float*>(scratch);
  if (job.shape.kernel == 3) return run<Avx512, 3>(job, begin, end, room);
  run<Avx512, 5>(job, begin, end, room);
}

}  // namespace quantsr
