#include "edge_conv2d.h"

#include <utility>

#include "edge_lines.h"

namespace quantsr {
namespace {

Conv2dJob job_of(const EdgeKernels& edges, const Conv2dJob& job, const EdgeLine& line) {
  const PackedConv& packed = edges.classes[line.pixel_class];
  Conv2dJob part = job;
  part.weights = packed.floats.data();
  part.bias = packed.bias.data();
  part.in = moved(job.in, line.y, line.x);
  part.epilogue.out = moved(job.epilogue.out, line.y, line.x);
  part.height = line.height;
  part.width = line.width;
  return part;
}

// A column as a row: the kernel steps from window to window by rows of the image.
void turn(Conv2dJob& job) {
  View<const float>& in = job.in;
  View<float>& out = job.epilogue.out;
  // The kernel takes half a window's pixel strides off the origin; here they are rows, but should be pixels.
  in.origin += job.shape.kernel / 2 * (in.row_stride - in.pixel_stride);
  in.pixel_stride = in.row_stride;
  out.pixel_stride = out.row_stride;
  std::swap(job.height, job.width);
}

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
  each_edge_line(job.height, job.width, begin, end, [&](const EdgeLine& line) {
    Conv2dJob part = job_of(edges, job, line);
    if (part.height > 1) turn(part);
    edges.run(part, 0, 1, nullptr);
  });
}

}  // namespace quantsr
