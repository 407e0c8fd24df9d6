#include "kernels/winograd.h"

#include <algorithm>
#include <cstdlib>

#include "error.h"
#include "round_up.h"

namespace quantsr {
namespace {

// Of a position: how the 1D transforms of all inputs add up.
struct Coefficients {
  int sum = 0;       // of all
  int negative = 0;  // minus the sum of the negative ones
  int positive = 0;
};

template <class F>
std::vector<Coefficients> coefficients() {
  std::vector<Coefficients> found(F::kPositions);
  for (int at = 0; at < F::kInput * F::kInput; ++at) {
    int patch[F::kInput][F::kInput] = {}, components[F::kInput][F::kInput];
    patch[at / F::kInput][at % F::kInput] = 1;
    data_components<F>(patch, components);
    F::data_operands(components, [&](int n, int value) {
      found[n].sum += value;
      (value < 0 ? found[n].negative : found[n].positive) += std::abs(value);
    });
  }
  return found;
}

template <class F>
std::vector<int> offsets(const ConvShape& s, Bytes bytes) {
  const int levels = (1 << s.act_bits) - 1, centre = 1 << (s.act_bits - 1);
  std::vector<int> found;
  for (const Coefficients& c : coefficients<F>())
    found.push_back(bytes == Bytes::u8 ? levels * c.negative : -centre * c.sum);
  return found;
}

// Calls put(position, operand) for the 3x3 kernel of an input and an output.
template <class F, class Put>
void transform_kernel(const int (&kernel)[3][3], Put put) {
  int rows[3][F::kInput], c[F::kInput][F::kInput];  // rows: [x][component of the rows]
  for (int x = 0; x < 3; ++x) F::weight_1d({kernel[0][x], kernel[1][x], kernel[2][x]}, rows[x]);
  for (int a = 0; a < F::kInput; ++a) F::weight_1d({rows[0][a], rows[1][a], rows[2][a]}, c[a]);
  F::weight_operands(c, put);
}

constexpr int kPanel16 = 16;

// How many of `steps` steps can be added up without a 16-bit lane leaving its range. codes: [step][16 outputs][4
// inputs] of one position, whose transformed inputs are 0..width. A lane takes inputs 0 and 1, or 2 and 3, of a step.
// sums: for the positive codes of each lane of each step, then for the negative ones.
int steps_together(const int8_t* codes, int steps, int width, std::vector<int16_t>& sums) {
  constexpr int kLanes = 2 * kPanel16;
  const int half = steps * kLanes;
  for (int i = 0; i < half; ++i) {
    const int a = codes[2 * i], b = codes[2 * i + 1];
    sums[i] = static_cast<int16_t>(std::max(a, 0) + std::max(b, 0));
    sums[half + i] = static_cast<int16_t>(-std::min(a, 0) - std::min(b, 0));
  }
  for (int together = 1, size = 2 * half;; together *= 2) {
    int16_t largest = 0;
    for (int i = 0; i < size; ++i) largest = std::max(largest, sums[i]);
    if (width * largest > 32767) return together / 2;
    if (together == 16 || steps % (2 * together) != 0) return together;
    size /= 2;
    for (int i = 0; i < size; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane)
        sums[i + lane] = static_cast<int16_t>(sums[2 * i + lane] + sums[2 * i + kLanes + lane]);
  }
}

}  // namespace

template <class F>
bool winograd_fits(const ConvShape& s) {
  if (s.kernel != 3) return false;
  const int levels = (1 << s.act_bits) - 1;
  for (const Coefficients& c : coefficients<F>())
    if (levels * (c.positive + c.negative) > 255) return false;
  // The sums of a whole layer stay below 2^24, so that they are exact as float32 (see numerics).
  const int64_t most = int64_t{1} << (s.weight_bits - 1);
  return s.weight_bits <= 4 && int64_t{F::kGain} * 9 * s.in_channels * levels * most < (int64_t{1} << 24);
}

template <class F>
PackedConv pack_qconv_winograd(const ConvShape& s, const int8_t* weights, int panel, Bytes bytes) {
  const int inputs = round_up(s.in_channels, kChannelGroup), outputs = round_up(s.out_channels, kChannelGroup);
  const std::vector<Coefficients> data = coefficients<F>();
  const std::vector<int> added = offsets<F>(s, bytes);
  PackedConv packed;
  packed.codes = AlignedArray<int8_t>(size_t(outputs) * inputs * F::kPositions);
  packed.init = AlignedArray<int32_t>(size_t(outputs) * F::kPositions);
  packed.offsets = AlignedArray<uint8_t>(F::kPositions);
  std::copy(added.begin(), added.end(), packed.offsets.data());
  for (int o = 0; o < s.out_channels; ++o) {
    const int first = o / panel * panel, wide = std::min(panel, outputs - first);
    int8_t* codes = packed.codes.data() + size_t(first) * inputs * F::kPositions;
    int32_t* init = packed.init.data() + size_t(first) * F::kPositions + (o - first);
    for (int i = 0; i < s.in_channels; ++i) {
      int kernel[3][3];
      for (int tap = 0; tap < 9; ++tap) kernel[tap / 3][tap % 3] = weights[(size_t(o) * 9 + tap) * s.in_channels + i];
      transform_kernel<F>(kernel, [&](int n, int value) {
        if (value < -128 || value > 127) fail("transformed weight", "-128..127", value);
        codes[(size_t(n) * inputs + i / 4 * 4) * wide + (o - first) * 4 + i % 4] = static_cast<int8_t>(value);
        init[n * wide] -= (added[n] + s.zero * data[n].sum) * value;
      });
    }
  }
  return packed;
}

template <class F>
AlignedArray<int32_t> winograd_steps(const ConvShape& s, const int8_t* codes) {
  const int inputs = round_up(s.in_channels, kChannelGroup), panels = (s.out_channels + kPanel16 - 1) / kPanel16;
  const int levels = (1 << s.act_bits) - 1;
  const std::vector<Coefficients> data = coefficients<F>();
  AlignedArray<int32_t> found(size_t(panels) * F::kPositions);
  std::vector<int16_t> sums(size_t(kPanel16) * inputs);
  for (size_t at = 0; at < found.size(); ++at, codes += kPanel16 * inputs) {
    const Coefficients& c = data[at % F::kPositions];
    found[at] = steps_together(codes, inputs / 4, levels * (c.positive + c.negative), sums);
    if (found[at] == 0) return {};
  }
  return found;
}

#define QUANTSR_WINOGRAD(F)                                                                      \
  template bool winograd_fits<F>(const ConvShape&);                                              \
  template PackedConv pack_qconv_winograd<F>(const ConvShape&, const int8_t*, int panel, Bytes); \
  template AlignedArray<int32_t> winograd_steps<F>(const ConvShape&, const int8_t*);
QUANTSR_WINOGRAD(F2x2)
QUANTSR_WINOGRAD(F4x4)

}  // namespace quantsr
