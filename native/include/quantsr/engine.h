// Runs a packed program on one image.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quantsr/ops.h"

namespace quantsr {

// Instruction sets that this CPU can run, slowest first: "ref", "avx2", "avxvnni", "avx512vnni", "amx", or
// "ref", "neon".
std::vector<std::string> available_isas();

// The kernels for qconv2d of an instruction set (named as for Engine), best first.
std::vector<std::string> qconv_kernel_names(const std::string& isa);

// Multiply-adds per second of CPU time that vpdpbusd, on the longest vectors that the CPU has it for, reaches on one
// core with nothing else to do; 0 if the CPU lacks it.
double vpdpbusd_peak();

// Whether a float convolution of this shape computes cells of 4 x 4 outputs, aligned to the image's corner. Then each
// output's rounding depends on all inputs of its cell, with any instruction set.
bool conv2d_in_cells(int kernel, int in_channels);

constexpr int kMaxThreads = 1024;

// Every defect of a program or an argument is a std::invalid_argument that says what was wanted and what was got.
class Engine {
 public:
  // ops: in order of execution; the last one gives `output`. Their tensors are copied, so they may go away afterwards.
  // image_channels: channels of the value "image".
  // preferred_kernel: one of qconv_kernel_names(isa), taken where it fits; empty takes the best for each layer.
  // threads: 1 to kMaxThreads. isa: a name from available_isas(); empty takes $QUANTSR_ISA, or else the fastest.
  Engine(const std::vector<Op>& ops, const std::string& output, int image_channels, int threads, const std::string& isa,
         const std::string& preferred_kernel = "");
  ~Engine();

  // Output side / input side, and channels of the output.
  int upscale() const;
  int output_channels() const;
  int image_channels() const;

  // image: height x width x image_channels() float32. out: (height*upscale()) x (width*upscale()) x output_channels()
  // float32. Calls from several threads run one after the other.
  void run(const float* image, int64_t height, int64_t width, float* out);

  // Bytes of buffers that run() takes for an image of this size, besides image and result.
  int64_t workspace_bytes(int64_t height, int64_t width) const;

  // One line per step of the plan: the ops fused into it, its shape and its kernel.
  std::vector<std::string> describe() const;

  // Seconds that each step of the last run took, in the order of describe().
  std::vector<double> step_seconds() const;

  std::string isa() const;
  int threads() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quantsr
