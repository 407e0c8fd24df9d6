// The outermost pixels of an image as lines of one class each. A class is 3 * class of the row + class of the column,
// each 0 in the first one, else 2 in the last one, else 1.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernels.h"

namespace quantsr {

constexpr int kMiddle = 4;  // the class of all other pixels

// One pixel high or one wide.
struct EdgeLine {
  int64_t y, x, height, width;
  int pixel_class;
};

template <class T>
View<T> moved(const View<T>& view, int64_t y, int64_t x) {
  return {view.origin + y * view.row_stride + x * view.pixel_stride, view.row_stride, view.pixel_stride};
}

// Calls use(EdgeLine) for the lines among rows begin .. end - 1 of an image.
template <class Use>
void each_edge_line(int64_t height, int64_t width, int64_t begin, int64_t end, Use use) {
  constexpr int kFirst = 0, kInner = 1, kLast = 2;
  const int64_t bottom = height - 1, right = width - 1;
  const auto line = [&](const EdgeLine& l) {
    if (l.height > 0 && l.width > 0) use(l);
  };
  for (int64_t y = begin; y < end; ++y) {
    if (y != 0 && y != bottom) continue;
    const int row = 3 * (y == 0 ? kFirst : kLast);
    line({y, 0, 1, 1, row + kFirst});
    line({y, 1, 1, right - 1, row + kInner});
    if (right > 0) line({y, right, 1, 1, row + kLast});
  }
  begin = std::max<int64_t>(begin, 1);
  end = std::min(end, bottom);
  line({begin, 0, end - begin, 1, 3 * kInner + kFirst});
  if (right > 0) line({begin, right, end - begin, 1, 3 * kInner + kLast});
}

}  // namespace quantsr
