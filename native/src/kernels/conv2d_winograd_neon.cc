// conv2d by Winograd tiles with 128-bit fused multiply-adds.
#include "kernels/conv2d_winograd_vector.h"
#include "kernels/epilogue_neon.h"

namespace quantsr {
namespace {

struct Neon {
  static constexpr int kLanes = 4;
  static constexpr int kPanel = 16;
  static constexpr int kTiles = 4;

  struct Lanes {
    float32x4_t v;
    Lanes() = default;
    explicit Lanes(float32x4_t x) : v(x) {}
    explicit Lanes(float x) : v(vdupq_n_f32(x)) {}
    static Lanes load(const float* p) { return Lanes(vld1q_f32(p)); }
    void store(float* p) const { vst1q_f32(p, v); }
    static Lanes fma(Lanes a, Lanes b, Lanes c) { return Lanes(vfmaq_f32(c.v, a.v, b.v)); }
    Lanes operator+(Lanes b) const { return Lanes(vaddq_f32(v, b.v)); }
    Lanes operator-(Lanes b) const { return Lanes(vsubq_f32(v, b.v)); }
  };

  // The first `count` floats, zeros behind them.
  static Lanes load(const float* p, int count) {
    float32x4_t f[1];
    load_neon(p, count, f);
    return Lanes(f[0]);
  }

  // sums[tile][output] = sum over inputs of values[tile][input] * weights[input][output], 16 outputs
  static void multiply(int tiles, int inputs, int, const float* values, int64_t values_stride, const float* weights,
                       float* sums, int64_t sums_stride) {
    for (; tiles >= kTiles; tiles -= kTiles, values += kTiles * values_stride, sums += kTiles * sums_stride)
      block<kTiles>(inputs, values, values_stride, weights, sums, sums_stride);
    switch (tiles) {
      case 3: return block<3>(inputs, values, values_stride, weights, sums, sums_stride);
      case 2: return block<2>(inputs, values, values_stride, weights, sums, sums_stride);
      case 1: return block<1>(inputs, values, values_stride, weights, sums, sums_stride);
    }
  }

  static void finish(const Epilogue& e, const Lanes (&out)[4], int64_t y, int64_t x, int pixels, int o) {
    for (int r = 0; r < pixels; ++r) {
      float32x4_t f[1] = {out[r].v};
      finish_neon(e, f, y, x + r, o);
    }
  }

 private:
  template <int T>
  static void block(int inputs, const float* a, int64_t values_stride, const float* weights, float* sums,
                    int64_t sums_stride) {
    float32x4_t acc[T][4];
#pragma GCC unroll 4
    for (int r = 0; r < T; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) acc[r][g] = vdupq_n_f32(0.0f);
    for (int i = 0; i < inputs; ++i, ++a, weights += kPanel) {
      float32x4_t w[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) w[g] = vld1q_f32(weights + 4 * g);
#pragma GCC unroll 4
      for (int r = 0; r < T; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) acc[r][g] = vfmaq_n_f32(acc[r][g], w[g], a[r * values_stride]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < T; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) vst1q_f32(sums + r * sums_stride + 4 * g, acc[r][g]);
  }
};

}  // namespace

void conv2d_winograd_neon(const Conv2dJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  float* room = reinterpret_cast<float*>(scratch);
  if (job.shape.kernel == 3) return run<Neon, 3>(job, begin, end, room);
  run<Neon, 5>(job, begin, end, room);
}

}  // namespace quantsr
