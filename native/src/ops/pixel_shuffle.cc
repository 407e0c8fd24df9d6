#include <type_traits>

#include "ops/ops.h"

namespace quantsr {
namespace {

// R and, where it is a constant, the number of channels unroll the inner loops.
template <int R, class Channels, class Finish>
void rows(View<const float> x, View<float> y, int64_t row, int64_t width, Channels channels, Finish finish) {
  for (int i = 0; i < R; ++i) {
    const float* from = x.origin + row * x.row_stride + i * R;
    float* to = y.origin + (row * R + i) * y.row_stride;
    for (int64_t p = 0; p < width; ++p, from += x.pixel_stride, to += R * channels)
      for (int c = 0; c < channels; ++c)
        for (int j = 0; j < R; ++j) to[j * channels + c] = finish(from[c * R * R + j], c);
  }
}

template <int R, class Finish>
void shuffle(View<const float> x, View<float> y, int64_t row, int64_t width, int channels, Finish finish) {
  if (channels == 3) return rows<R>(x, y, row, width, std::integral_constant<int, 3>{}, finish);
  rows<R>(x, y, row, width, channels, finish);
}

template <class Finish>
void shuffle(View<const float> x, int upscale, View<float> y, int64_t row, int64_t width, int channels, Finish finish) {
  if (upscale == 2) return shuffle<2>(x, y, row, width, channels, finish);
  if (upscale == 3) return shuffle<3>(x, y, row, width, channels, finish);
  shuffle<4>(x, y, row, width, channels, finish);
}

}  // namespace

void pixel_shuffle_row(View<const float> x, int upscale, const float* scale, const float* offset, View<float> y,
                       int64_t row, int64_t width, int channels) {
  if (scale == nullptr) return shuffle(x, upscale, y, row, width, channels, [](float v, int) { return v; });
  shuffle(x, upscale, y, row, width, channels, [=](float v, int c) {
    const float scaled = v * scale[c];
    return scaled + offset[c];
  });
}

}  // namespace quantsr
