#include <algorithm>

#include "ops/ops.h"

namespace quantsr {
namespace {

int64_t mirrored(int64_t at, int64_t size) {
  const int64_t period = std::max<int64_t>(2 * (size - 1), 1);
  return std::min(at % period, period - at % period);
}

}  // namespace

void pad_row(View<const float> x, int64_t height, int64_t width, View<float> y, int64_t row, int64_t padded,
             int channels) {
  const float* from = x.origin + mirrored(row, height) * x.row_stride;
  float* to = y.origin + row * y.row_stride;
  std::copy(from, from + width * channels, to);
  for (int64_t i = width; i < padded; ++i) {
    const float* pixel = from + mirrored(i, width) * channels;
    std::copy(pixel, pixel + channels, to + i * channels);
  }
}

void crop_row(View<const float> x, View<float> y, int64_t row, int64_t width, int channels) {
  const float* from = x.origin + row * x.row_stride;
  std::copy(from, from + width * channels, y.origin + row * y.row_stride);
}

}  // namespace quantsr
