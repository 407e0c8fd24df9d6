#include "edge_qconv2d.h"

#include <algorithm>

#include "edge_lines.h"
#include "kernels/pack.h"

namespace quantsr {
QWeights EdgeCodes::of(int pixel_class) const {
  const int64_t first = int64_t{pixel_class} * shape.out_channels;
  return {codes + first * shape.kernel * shape.kernel * shape.in_channels, mul + first, bias + first};
}

size_t EdgeQKernels::scratch_bytes() const {
  size_t most = 0;
  for (const Class& c : classes) most = std::max(most, c.conv.packed.scratch_bytes);
  return most;
}

EdgeQKernels prepare_edges(Isa isa, const EdgeCodes& weights, const std::string& preferred_kernel) {
  EdgeQKernels edges;
  for (int c = 0; c < kEdgeClasses; ++c) {
    if (c == kMiddle) continue;
    const QWeights own = weights.of(c);
    const int outputs = weights.shape.out_channels;
    edges.classes[c] = {prepare_qconv(isa, weights.shape, own.codes, preferred_kernel), padded(own.mul, outputs),
                        padded(own.bias, outputs)};
  }
  return edges;
}

void run_edges(const EdgeQKernels& edges, const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch) {
  each_edge_line(job.height, job.width, begin, end, [&](const EdgeLine& line) {
    const EdgeQKernels::Class& own = edges.classes[line.pixel_class];
    QConvJob part = job;
    const PackedConv& packed = own.conv.packed;
    part.weights = packed.codes.data();
    part.init = packed.init.data();
    part.offsets = packed.offsets.data();
    part.steps = packed.steps.data();
    part.in = moved(job.in, line.y, line.x);
    part.height = line.height;
    part.width = line.width;
    part.epilogue.mul = own.mul.data();
    part.epilogue.bias = own.bias.data();
    part.epilogue.out = moved(job.epilogue.out, line.y, line.x);
    own.conv.kernel->run(part, 0, line.height, scratch);
  });
}

}  // namespace quantsr
