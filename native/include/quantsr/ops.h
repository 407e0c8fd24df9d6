// The op list as it arrives from outside: names, numbers and arrays, nothing checked yet.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace quantsr {

enum class DType { f32, i8 };

// A dense, C-contiguous array owned by the caller.
struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;
};

// One op. Kinds, attributes and tensor roles are listed in src/graph.cc.
struct Op {
  std::string kind;
  std::vector<std::string> inputs;
  std::string output;
  std::map<std::string, double> attrs;
  std::map<std::string, Tensor> tensors;
};

}  // namespace quantsr
