#include <algorithm>

#include "kernels/transformer.h"

namespace quantsr {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

int64_t padded_pixels(int64_t pixels) { return (pixels + kPixelLanes - 1) / kPixelLanes * kPixelLanes; }

AlignedArray<float> spread(int window, int heads, const float* table, int height, int width) {
  const int64_t stride = PositionBias::stride(height, width);
  AlignedArray<float> bias(heads * width * stride);
  for (int h = 0; h < heads; ++h)
    for (int x = 0; x < width; ++x)
      for (int i = 0; i < (2 * height - 1) * width; ++i) {
        const int64_t dy = i / width + window - height, dx = i % width - x + window - 1;
        bias[(h * width + x) * stride + i] = table[(dy * (2 * window - 1) + dx) * heads + h] * kLog2E;
      }
  return bias;
}

}  // namespace

PositionBias::PositionBias(int window, int shift, int heads, const float* table)
    : sides_{window, shift, window - shift} {
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      if (kind(sides_[i]) == i && kind(sides_[j]) == j)
        parts_[3 * i + j] = spread(window, heads, table, sides_[i], sides_[j]);
}

const float* PositionBias::of(int height, int width) const { return parts_[3 * kind(height) + kind(width)].data(); }

int PositionBias::kind(int side) const { return static_cast<int>(std::find(sides_, sides_ + 3, side) - sides_); }

size_t attention_scratch(int pixels, int channels) {
  // Where the pixels and their biases lie; queries and results with pixels side by side; logits of two blocks of
  // pixels.
  const size_t padded = static_cast<size_t>(padded_pixels(pixels)), whole = (channels + 15) / 16 * 16;
  return padded * (sizeof(const float*) + sizeof(int64_t)) +
         (2 * whole * padded + 2 * kPixelLanes * padded) * sizeof(float);
}

size_t qattention_scratch(int pixels, int heads, int depth) {
  // As in qattention_vector.h: results and logits; queries and values, four to a word; weights likewise; where the
  // pixels and their biases lie.
  const size_t padded = static_cast<size_t>(padded_pixels(pixels)), whole = (heads * depth + 15) / 16 * 16;
  const size_t words = (pixels + 3) / 4;
  return (whole * padded + 2 * kPixelLanes * padded) * sizeof(float) +
         (heads * ((depth + 3) / 4) * padded + words * whole + words * 2 * kPixelLanes) * sizeof(uint32_t) +
         padded * (sizeof(const uint8_t*) + sizeof(int64_t));
}

}  // namespace quantsr
