// The edges of an edge_conv2d, a conv2d whose first and last rows and columns have weights of their own: nine classes
// of pixels (edge_lines.h). An ordinary kernel computes the middle class everywhere; what is here overwrites the
// outermost pixels, a line of one class after the other.
#pragma once

#include <array>

#include "graph.h"
#include "kernels/kernels.h"

namespace quantsr {

// weight: (9, O, K, K, I), bias: (9, O)
struct EdgeWeights {
  ConvShape shape;
  const float *weight, *bias;

  const float* weight_of(int c) const;
  const float* bias_of(int c) const;
};

struct EdgeKernels {
  RunConv2d run = nullptr;
  std::array<PackedConv, kEdgeClasses> classes;
};

EdgeKernels prepare_edges(Isa isa, const EdgeWeights& weights);

// The edge pixels among rows begin .. end - 1 of `job`. The epilogue may only store: it is applied a second time.
void run_edges(const EdgeKernels& edges, const Conv2dJob& job, int64_t begin, int64_t end);

}  // namespace quantsr
