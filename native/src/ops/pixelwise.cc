#include "kernels/epilogue_ref.h"
#include "ops/ops.h"

namespace quantsr {

void affine_row(View<const float> x, const float* scale, const float* offset, View<float> y, int64_t row, int64_t width,
                int channels) {
  for (int64_t i = 0; i < width; ++i) {
    const float* from = x.origin + row * x.row_stride + i * x.pixel_stride;
    float* to = y.origin + row * y.row_stride + i * y.pixel_stride;
    for (int c = 0; c < channels; ++c) {
      const float scaled = from[c] * scale[c];
      to[c] = scaled + offset[c];
    }
  }
}

void relu_row(View<const float> x, View<float> y, int64_t row, int64_t width, int channels) {
  // Float pixels are dense within a row.
  const float* from = x.origin + row * x.row_stride;
  float* to = y.origin + row * y.row_stride;
  for (int64_t i = 0; i < width * channels; ++i) to[i] = relu_ref(from[i]);
}

void residual_row(View<const float> skip, View<const float> branch, float gain, View<float> y, int64_t row,
                  int64_t width, int channels) {
  const float* kept = skip.origin + row * skip.row_stride;
  const float* added = branch.origin + row * branch.row_stride;
  float* to = y.origin + row * y.row_stride;
  for (int64_t i = 0; i < width * channels; ++i) {
    const float scaled = kept[i] * gain;
    to[i] = scaled + added[i];
  }
}

void quantize_row(View<const float> x, const float* inv, const float* offset, float levels, View<uint8_t> a,
                  int64_t row, int64_t width, int channels) {
  for (int64_t i = 0; i < width; ++i) {
    const float* from = x.origin + row * x.row_stride + i * x.pixel_stride;
    uint8_t* to = a.origin + row * a.row_stride + i * a.pixel_stride;
    for (int c = 0; c < channels; ++c) to[c] = quantize_ref(from[c], inv[c], offset[c], levels);
  }
}

}  // namespace quantsr
