// A program made ready to run: fused into steps, weights packed for the chosen kernels, buffers assigned to slots.
// It does not depend on the image size.
#pragma once

#include <string>
#include <vector>

#include "edge_conv2d.h"
#include "edge_qconv2d.h"
#include "graph.h"
#include "kernels/kernels.h"
#include "kernels/transformer.h"

namespace quantsr {

inline bool is_attention(OpKind kind) { return kind == OpKind::window_attention || kind == OpKind::qwindow_attention; }

// A buffer that several values share, one after the other. Its border is filled once per image size and never written.
// Each thread has one of its own for values that live within a tile.
struct Slot {
  bool is_codes;
  int channels;
  int factor;  // its side / the image's side, which counts as rounded up to `multiple`
  int multiple;
  bool tile;                // of a tile, not of the image
  int zero;                 // codes: the byte in the border; float32 borders hold 0
  int levels;               // codes: the highest; kernels may read pixels that still hold an earlier value
  int pad;                  // pixels of border on each side
  bool whole_runs;          // rows and columns rounded up for convolutions
  bool rows_below = false;  // a run of rows more at the end, for edge_conv2d
};

struct Step {
  OpKind kind;              // of the first op fused into it
  std::string text;         // the fused ops, for describe()
  const char* kernel = "";  // convolutions and what transformers add
  int in = -1;              // slots; -1: none
  int skip = -1;
  int out = -1;    // float32 result
  int codes = -1;  // quantized result
  bool relu = false;
  float gain = 1, levels = 0;
  int upscale = 1;                       // pixel_shuffle
  float epsilon = 0;                     // layer_norm
  int heads = 0, window = 0, shift = 0;  // attention
  float logit_scale = 0;                 // times log2 e
  PositionBias position_bias;
  QAttentionJob qattention{};  // qwindow_attention: what does not depend on the image
  AlignedArray<float> softmax_offset;
  size_t scratch_bytes = 0;
  ConvShape shape{};
  PackedConv packed;
  const QConvKernel* qconv_kernel = nullptr;
  const Conv2dKernel* conv2d_kernel = nullptr;
  EdgeKernels edges;                // edge_conv2d: the other classes of pixels
  EdgeQKernels qedges;              // edge_qconv2d: likewise
  AlignedArray<float> mul, bias;    // qconv2d; scale and offset of affine and layer_norm
  AlignedArray<float> inv, offset;  // of the quantizer
};

// single: one step, shared out in rows or bands of rows. layers: low-bit convolutions in skewed tiles. windows: steps
// that look at no other window, in tiles of `tile_width` x `window` pixels or parts of them, which end where windows
// do.
enum class RunKind { single, layers, windows };

struct Run {
  int begin, end;  // steps
  RunKind kind;
  int window = 0, shift = 0, tile_width = 0;
};

struct Plan {
  Isa isa;
  std::vector<Slot> slots;
  std::vector<Step> steps;
  std::vector<Run> runs;
  int image_slot = 0;
  int output_slot = 0;  // no other value lives in it
};

Plan make_plan(const std::vector<Op>& ops, const std::string& output, int image_channels, Isa isa,
               const std::string& preferred_kernel);

}  // namespace quantsr
