#include "edge_conv2d.h"

#include <algorithm>

namespace quantsr {
namespace {

constexpr int kFirst = 0, kInner = 1, kLast = 2;  // classes of rows, and of columns

template <class T>
View<T> moved(const View<T>& view, int64_t y, int64_t x) {
  return {view.origin + y * view.row_stride + x * view.pixel_stride, view.row_stride, view.pixel_stride};
}

class Lines {
 public:
  Lines(const EdgeKernels& edges, const Conv2dJob& job) : edges_(edges), job_(job) {}

  // `count` pixels to the right of (y, x), itself included.
  void row(int64_t y, int64_t x, int64_t count, int row_class, int column_class) const {
    if (count > 0) run(line_from(y, x, count, row_class, column_class));
  }

  // `count` pixels downwards from (y, x): the kernel steps from window to window by rows.
  void column(int64_t y, int64_t x, int64_t count, int row_class, int column_class) const {
    if (count <= 0) return;
    Conv2dJob line = line_from(y, x, count, row_class, column_class);
    View<const float>& in = line.in;
    View<float>& out = line.epilogue.out;
    // The kernel takes half a window's pixel strides off the origin; here they are rows, but should be pixels.
    in.origin += job_.shape.kernel / 2 * (in.row_stride - in.pixel_stride);
    in.pixel_stride = in.row_stride;
    out.pixel_stride = out.row_stride;
    run(line);
  }

 private:
  Conv2dJob line_from(int64_t y, int64_t x, int64_t count, int row_class, int column_class) const {
    const PackedConv& packed = edges_.classes[3 * row_class + column_class];
    Conv2dJob line = job_;
    line.weights = packed.floats.data();
    line.bias = packed.bias.data();
    line.in = moved(job_.in, y, x);
    line.epilogue.out = moved(job_.epilogue.out, y, x);
    line.height = 1;
    line.width = count;
    return line;
  }

  void run(const Conv2dJob& line) const { edges_.run(line, 0, 1, nullptr); }

  const EdgeKernels& edges_;
  const Conv2dJob& job_;
};

}  // namespace

const float* EdgeWeights::weight_of(int c) const {
  return weight + int64_t{c} * shape.out_channels * shape.kernel * shape.kernel * shape.in_channels;
}

const float* EdgeWeights::bias_of(int c) const { return bias + int64_t{c} * shape.out_channels; }

EdgeKernels prepare_edges(Isa isa, const EdgeWeights& weights) {
  const Conv2dKernel& kernel = direct_conv2d(isa);  // it takes lines of any length and direction
  EdgeKernels edges;
  edges.run = kernel.run;
  for (int c = 0; c < kEdgeClasses; ++c)
    if (c != kMiddle) edges.classes[c] = kernel.prepare(weights.shape, weights.weight_of(c), weights.bias_of(c));
  return edges;
}

void run_edges(const EdgeKernels& edges, const Conv2dJob& job, int64_t begin, int64_t end) {
  const Lines lines(edges, job);
  const int64_t bottom = job.height - 1, right = job.width - 1;
  for (int64_t y = begin; y < end; ++y) {
    if (y != 0 && y != bottom) continue;
    const int row_class = y == 0 ? kFirst : kLast;
    lines.row(y, 0, 1, row_class, kFirst);
    lines.row(y, 1, right - 1, row_class, kInner);
    if (right > 0) lines.row(y, right, 1, row_class, kLast);
  }
  begin = std::max<int64_t>(begin, 1);
  end = std::min(end, bottom);
  lines.column(begin, 0, end - begin, kInner, kFirst);
  if (right > 0) lines.column(begin, right, end - begin, kInner, kLast);
}

}  // namespace quantsr
