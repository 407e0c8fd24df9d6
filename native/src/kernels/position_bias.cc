#include <algorithm>

#include "kernels/transformer.h"

namespace quantsr {
namespace {

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

}  // namespace quantsr
