// The interface of the ops of transformers: layer_norm, gelu, window_attention and qwindow_attention. Results go to
// `out` and `codes` of an Epilogue, which has neither relu nor skip. Docs: numerics.md, which defines each order of
// operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "kernels/kernels.h"

namespace quantsr {

// Attention works on so many pixels at a time, or a part of them; buffers of pixels side by side are padded to it.
constexpr int kPixelLanes = 16;

constexpr float kLog2E = 1.44269504088896340736f;

struct NormJob {
  View<const float> in;
  int64_t height, width;
  float epsilon;
  const float *scale, *offset;  // padded to kChannelGroup
  Epilogue epilogue;
};

struct GeluJob {
  View<const float> in;
  int64_t height, width;
  Epilogue epilogue;
};

// What of a window lies within the image: `pixels` of them, row by row, in a rectangle `width` wide.
struct WindowPart {
  int64_t y, x;  // from `in`
  int width, pixels;
  const float* bias;  // see PositionBias
};

// Attention of the pixels of one window.
struct AttentionJob {
  View<const float> in;  // queries, keys and values
  int heads, depth;      // depth: channels of a head
  float scale;           // times log2 e
  Epilogue epilogue;     // its views begin where `in` does
};

// Attention of the pixels of one window, from codes and with both products of codes.
struct QAttentionJob {
  View<const uint8_t> in;  // queries, keys and values
  int heads, depth;        // depth: channels of a head
  uint32_t query_zero, key_zero, value_zero;
  float scale;  // of a product of codes of queries and keys, times log2 e
  // Quantizer of what the softmax gives.
  float inv, levels;
  uint32_t softmax_zero;
  const float* offset;  // one per head
  float mul;            // of a product of its codes and those of values
  Epilogue epilogue;    // its views begin where `in` does
};

// The position biases of a layer times log2 e, for windows that are whole and those that the image's border cuts. The
// biases of all pixels p of a height x width window towards a pixel of row y and column x lie side by side, and those
// towards other rows of column x begin `width` floats earlier or later, because a bias depends on distance alone:
// [head][x][(height - 1 - y) * width + p].
class PositionBias {
 public:
  PositionBias() = default;
  // table: ((2 window - 1)^2, heads)
  PositionBias(int window, int shift, int heads, const float* table);

  // height, width: of the part of a window; each is `window`, `shift`, or `window - shift`.
  const float* of(int height, int width) const;

  // Floats from column to column, with some that may be read behind the last pixel.
  static int64_t stride(int height, int width) { return int64_t{2 * height - 1} * width + 2 * kPixelLanes; }

 private:
  int kind(int side) const;  // the first of sides_ with this value

  int sides_[3] = {};
  AlignedArray<float> parts_[9];
};

// The rows from `first` to before `last` of a job.
using RunNorm = void (*)(const NormJob&, int64_t first, int64_t last);
using RunGelu = void (*)(const GeluJob&, int64_t first, int64_t last);
// scratch: as attention_scratch.h says, 64-byte aligned.
using RunAttention = void (*)(const AttentionJob&, const WindowPart&, std::byte* scratch);
using RunQAttention = void (*)(const QAttentionJob&, const WindowPart&, std::byte* scratch);

struct TransformerKernels {
  const char* name;
  RunNorm layer_norm;
  RunGelu gelu;
  RunAttention attention;
  RunQAttention qattention;
};

// kernels/dispatch.cc
const TransformerKernels& transformer_kernels(Isa isa);

// One per instruction set, in the files transformer_*.cc.
extern const TransformerKernels kTransformerRef, kTransformerAvx2, kTransformerAvx512, kTransformerNeon;

}  // namespace quantsr
