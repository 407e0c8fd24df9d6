// The scratch of attention in one window: where each of its arrays begins, in bytes, and how many there are. Local to
// each file that includes it, as these are compiled for different instruction sets.
#pragma once

#include "kernels/transformer.h"
#include "round_up.h"

namespace quantsr {
namespace {

inline size_t padded_pixels(int pixels) { return round_up(pixels, kPixelLanes); }
inline size_t padded_channels(int channels) { return round_up(channels, kChannelGroup); }

constexpr size_t kBlockPixels = 2 * kPixelLanes;  // that see, at once

struct AttentionLayout {
  size_t queries;  // float [channel][pixel], times the scale
  size_t mixed;    // float [channel][pixel]
  size_t logits;   // float [pixel that is seen][block of pixels that see]
  size_t pixels;   // float*: where each begins
  size_t biases;   // int64: where the biases towards it begin, in those of a head
  size_t bytes;
};

inline AttentionLayout attention_layout(int pixels, int channels) {
  const size_t padded = padded_pixels(pixels), plane = padded_channels(channels) * padded * sizeof(float);
  AttentionLayout at{};
  at.mixed = at.queries + plane;
  at.logits = at.mixed + plane;
  at.pixels = at.logits + kBlockPixels * padded * sizeof(float);
  at.biases = at.pixels + padded * sizeof(const float*);
  at.bytes = at.biases + padded * sizeof(int64_t);
  return at;
}

constexpr int kWordBytes = 4;  // of products of codes at once

inline int words_of(int count) { return (count + kWordBytes - 1) / kWordBytes; }

// Of attention on codes.
struct QAttentionLayout {
  size_t mixed;    // float [channel][pixel]
  size_t logits;   // float [pixel that is seen][block of pixels that see]
  size_t queries;  // words [head][word of channels][pixel], signed
  size_t values;   // words [word of pixels][channel], unsigned
  size_t weights;  // words [word of pixels that are seen][block of pixels that see], signed
  size_t pixels;   // uint8_t*: where each begins
  size_t biases;   // int64: where the biases towards it begin, in those of a head
  size_t bytes;
};

inline QAttentionLayout qattention_layout(int pixels, int heads, int depth) {
  const size_t padded = padded_pixels(pixels), channels = padded_channels(heads * depth);
  const size_t words = words_of(pixels);
  QAttentionLayout at{};
  at.logits = at.mixed + channels * padded * sizeof(float);
  at.queries = at.logits + kBlockPixels * padded * sizeof(float);
  at.values = at.queries + heads * words_of(depth) * padded * sizeof(uint32_t);
  at.weights = at.values + words * channels * sizeof(uint32_t);
  at.pixels = at.weights + words * kBlockPixels * sizeof(uint32_t);
  at.biases = at.pixels + padded * sizeof(const uint8_t*);
  at.bytes = at.biases + padded * sizeof(int64_t);
  return at;
}

}  // namespace
}  // namespace quantsr
