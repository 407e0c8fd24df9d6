// conv2d by Winograd tiles, plainly: the definition of its result. For every tile of 4 x 4 outputs, aligned to the
// image's top left corner: inputs are transformed along y, then along x; each of the (K + 3)^2 positions takes one
// fused multiply-add per input channel, in order, from 0; these sums are transformed along y, then along x; the bias is
// added last. Padding counts as zeros.
#include <cmath>

#include "kernels/conv2d_winograd.h"
#include "kernels/epilogue_ref.h"

namespace quantsr {
namespace {

struct Single {
  float v;
  Single() = default;
  explicit Single(float x) : v(x) {}
  static Single fma(Single a, Single b, Single c) { return Single(std::fma(a.v, b.v, c.v)); }
  Single operator+(Single b) const { return Single(v + b.v); }
  Single operator-(Single b) const { return Single(v - b.v); }
};

// values: [position][channel]
template <int K>
void input_tile(const Conv2dJob& job, int64_t y, int64_t x, float* values) {
  constexpr int kSide = K + 3;
  const float* corner = job.in.origin + (y - K / 2) * job.in.row_stride + (x - K / 2) * job.in.pixel_stride;
  const int channels = job.shape.in_channels;
  for (int c = 0; c < channels; ++c) {
    Single rows[kSide][kSide];  // [y][x]
    for (int j = 0; j < kSide; ++j) {
      Single d[kSide], t[kSide];
      for (int i = 0; i < kSide; ++i) d[i] = Single(corner[i * job.in.row_stride + j * job.in.pixel_stride + c]);
      transform_inputs<K>(d, t);
      for (int i = 0; i < kSide; ++i) rows[i][j] = t[i];
    }
    for (int i = 0; i < kSide; ++i) {
      Single t[kSide];
      transform_inputs<K>(rows[i], t);
      for (int j = 0; j < kSide; ++j) values[(i * kSide + j) * channels + c] = t[j].v;
    }
  }
}

// out: [y][x]
template <int K>
void output_tile(const Conv2dJob& job, const float* values, int o, float (*out)[4]) {
  constexpr int kSide = K + 3;
  const int channels = job.shape.in_channels;
  const float* weights = job.weights + int64_t{o} * kSide * kSide * channels;
  Single rows[4][kSide];
  for (int j = 0; j < kSide; ++j) {
    Single sums[kSide], y[4];
    for (int i = 0; i < kSide; ++i) {
      const int64_t at = int64_t{i * kSide + j} * channels;
      float sum = 0;
      for (int c = 0; c < channels; ++c) sum = std::fma(values[at + c], weights[at + c], sum);
      sums[i] = Single(sum);
    }
    transform_products<K>(sums, y);
    for (int i = 0; i < 4; ++i) rows[i][j] = y[i];
  }
  for (int i = 0; i < 4; ++i) {
    Single x[4];
    transform_products<K>(rows[i], x);
    for (int j = 0; j < 4; ++j) out[i][j] = x[j].v + job.bias[o];
  }
}

template <int K>
void run(const Conv2dJob& job, int64_t begin, int64_t end, float* values) {
  for (int64_t y = begin; y < end; y += 4)
    for (int64_t x = 0; x < job.width; x += 4) {
      input_tile<K>(job, y, x, values);
      for (int o = 0; o < job.shape.out_channels; ++o) {
        float out[4][4];
        output_tile<K>(job, values, o, out);
        for (int i = 0; i < 4 && y + i < end; ++i)
          for (int j = 0; j < 4 && x + j < job.width; ++j) finish_ref(job.epilogue, out[i][j], y + i, x + j, o);
      }
    }
}

}  // namespace

void conv2d_winograd_ref(const Conv2dJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  float* values = reinterpret_cast<float*>(scratch);
  if (job.shape.kernel == 3) return run<3>(job, begin, end, values);
  run<5>(job, begin, end, values);
}

}  // namespace quantsr
