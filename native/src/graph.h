// A checked program: names resolved to indices, shapes known, every number inside its range.
#pragma once

#include <string>
#include <vector>

#include "quantsr/ops.h"

namespace quantsr {

enum class OpKind {
  affine,
  conv2d,
  edge_conv2d,
  quantize,
  qconv2d,
  edge_qconv2d,
  relu,
  residual,
  pixel_shuffle,
  pad,
  crop,
  layer_norm,
  gelu,
  window_attention,
  qwindow_attention
};

constexpr int kEdgeClasses = 9;  // of pixels: {first, middle, last} row x {first, middle, last} column

struct Value {
  std::string name;
  bool is_codes;  // uint8 codes, else float32
  int channels;
  int factor;  // its side / the image's side, which counts as rounded up to `multiple`
  int multiple = 1;
  int levels = 0;            // codes: the largest one
  int zero = -1;             // codes: the byte that stands for 0, once a consumer has said so
  std::vector<int> users{};  // nodes that read it, in order
};

struct Node {
  OpKind kind;
  const Op* op;
  std::vector<int> inputs;  // indices into Graph::values
  int output;

  double attr(const char* name) const { return op->attrs.at(name); }
  const float* floats(const char* role) const { return static_cast<const float*>(op->tensors.at(role).data); }
  const int8_t* codes(const char* role) const { return static_cast<const int8_t*>(op->tensors.at(role).data); }
};

struct Graph {
  std::vector<Value> values;  // values[0] is the image
  std::vector<Node> nodes;    // point into the ops they were made from
  int output;
};

Graph check(const std::vector<Op>& ops, const std::string& output, int image_channels);

}  // namespace quantsr
