#include "ops/ops.h"

namespace quantsr {

void pixel_shuffle_row(View<const float> x, int upscale, View<float> y, int64_t row, int64_t width, int channels) {
  const int r = upscale;
  for (int i = 0; i < r; ++i) {
    const float* from = x.origin + row * x.row_stride + i * r;
    float* to = y.origin + (row * r + i) * y.row_stride;
    for (int64_t p = 0; p < width; ++p, from += x.pixel_stride)
      for (int j = 0; j < r; ++j)
        for (int c = 0; c < channels; ++c) *to++ = from[c * r * r + j];
  }
}

}  // namespace quantsr
