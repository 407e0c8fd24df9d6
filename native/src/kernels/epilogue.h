// What a convolution kernel does with a finished sum, in this order:
//   f = float(acc) * mul[o] + bias[o]      (qconv2d; conv2d starts from its float32 sum)
//   f = max(f, 0)                          if relu
//   f = skip * gain + f                    if skip
//   out = f                                if out
//   codes = rne(min(max(f * inv[o] + offset[o], 0), levels))    if codes
// Every * and + is rounded on its own (no FMA), so all instruction sets give the same bytes. max(x, 0) is x > 0 ? x :
// 0, which also turns NaN and -0 into +0 everywhere. Plain data only: kernels are compiled with flags of their own and
// must not share inline functions with other files.
#pragma once

#include <cstdint>

namespace quantsr {

// Channels come in groups of this many: code buffers and per-channel tables are padded to it.
constexpr int kChannelGroup = 16;

// A pixel (y, x) of a buffer starts at origin + y * row_stride + x * pixel_stride; strides count elements.
// Pixels beside the image (negative, or past its end) exist as far as a kernel may read.
template <class T>
struct View {
  T* origin;
  int64_t row_stride;
  int64_t pixel_stride;
};

struct Epilogue {
  int channels;       // real output channels
  const float* mul;   // qconv2d only; like bias and offset padded with 0 to kChannelGroup
  const float* bias;  // qconv2d only
  bool relu;
  View<const float> skip;  // origin null: no residual
  float gain;
  View<float> out;      // origin null: not stored; may be the same memory as skip
  View<uint8_t> codes;  // origin null: not quantized; room for whole channel groups
  const float* inv;     // per channel, padded alike
  float levels;
  const float* offset;
};

}  // namespace quantsr
