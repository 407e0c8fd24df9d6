// The edges of an edge_qconv2d: a qconv2d with weights, multipliers and biases for each class of pixels (edge_lines.h).
// An ordinary kernel computes the middle class everywhere; what is here overwrites the outermost pixels.
#pragma once

#include <array>
#include <string>

#include "graph.h"
#include "kernels/kernels.h"

namespace quantsr {

// Of one class of pixels: codes (O, K, K, I), mul and bias (O).
struct QWeights {
  const int8_t* codes;
  const float *mul, *bias;
};

// Of all classes: codes (9, O, K, K, I), mul and bias (9, O).
struct EdgeCodes {
  ConvShape shape;
  const int8_t* codes;
  const float *mul, *bias;

  QWeights of(int pixel_class) const;
};

struct EdgeQKernels {
  struct Class {
    PreparedQConv conv;
    AlignedArray<float> mul, bias;
  };
  std::array<Class, kEdgeClasses> classes;

  size_t scratch_bytes() const;
};

EdgeQKernels prepare_edges(Isa isa, const EdgeCodes& weights, const std::string& preferred_kernel);

// The edge pixels among rows begin .. end - 1 of `job`. The epilogue may only store: it is applied a second time.
void run_edges(const EdgeQKernels& edges, const QConvJob& job, int64_t begin, int64_t end, std::byte* scratch);

}  // namespace quantsr
