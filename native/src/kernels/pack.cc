#include "kernels/pack.h"

#include <algorithm>

#include "round_up.h"

namespace quantsr {
namespace {

// sum (a - zero) * w = sum a * w - zero * sum w: the second part is where the accumulator starts.
AlignedArray<int32_t> initial_sums(const ConvShape& s, const int8_t* weights) {
  AlignedArray<int32_t> init(round_up(s.out_channels, kChannelGroup));
  const size_t per_output = size_t(s.kernel) * s.kernel * s.in_channels;
  for (int o = 0; o < s.out_channels; ++o) {
    int32_t sum = 0;
    for (size_t i = 0; i < per_output; ++i) sum += weights[o * per_output + i];
    init[o] = -s.zero * sum;
  }
  return init;
}

// Calls put(packed index, source index) for every weight. inputs: with padding; depth: inputs that lie together.
template <class Put>
void each_weight(const ConvShape& s, int panel, size_t inputs, int depth, Put put) {
  const size_t taps = size_t(s.kernel) * s.kernel;
  const size_t outputs = round_up(s.out_channels, kChannelGroup);
  for (size_t o = 0; o < size_t(s.out_channels); ++o) {
    const size_t first = o / panel * panel, wide = std::min<size_t>(panel, outputs - first);
    for (size_t t = 0; t < taps; ++t)
      for (size_t i = 0; i < size_t(s.in_channels); ++i) {
        const size_t row = (t * inputs + i / depth * depth) * wide;
        put(first * taps * inputs + row + (o - first) * depth + i % depth, (o * taps + t) * s.in_channels + i);
      }
  }
}

size_t packed_size(const ConvShape& s, size_t inputs) {
  return round_up(s.out_channels, kChannelGroup) * s.kernel * s.kernel * inputs;
}

}  // namespace

AlignedArray<float> padded(const float* values, int count) {
  AlignedArray<float> out(round_up(count, kChannelGroup));
  std::copy(values, values + count, out.data());
  return out;
}

PackedConv pack_qconv_plain(const ConvShape& s, const int8_t* weights) {
  PackedConv packed;
  packed.codes = AlignedArray<int8_t>(size_t(s.out_channels) * s.kernel * s.kernel * s.in_channels);
  std::copy(weights, weights + packed.codes.size(), packed.codes.data());
  packed.init = initial_sums(s, weights);
  return packed;
}

PackedConv pack_conv2d_plain(const ConvShape& s, const float* weights, const float* bias) {
  PackedConv packed;
  packed.floats = AlignedArray<float>(size_t(s.out_channels) * s.kernel * s.kernel * s.in_channels);
  std::copy(weights, weights + packed.floats.size(), packed.floats.data());
  packed.bias = padded(bias, s.out_channels);
  return packed;
}

PackedConv pack_qconv_panels(const ConvShape& s, const int8_t* weights, int panel) {
  PackedConv packed;
  const size_t inputs = round_up(s.in_channels, kChannelGroup);
  packed.codes = AlignedArray<int8_t>(packed_size(s, inputs));
  each_weight(s, panel, inputs, 4, [&](size_t to, size_t from) { packed.codes[to] = weights[from]; });
  packed.init = initial_sums(s, weights);
  return packed;
}

PackedConv pack_conv2d_panels(const ConvShape& s, const float* weights, const float* bias, int panel) {
  PackedConv packed;
  packed.floats = AlignedArray<float>(packed_size(s, s.in_channels));
  each_weight(s, panel, s.in_channels, 1, [&](size_t to, size_t from) { packed.floats[to] = weights[from]; });
  packed.bias = padded(bias, s.out_channels);
  return packed;
}

}  // namespace quantsr
