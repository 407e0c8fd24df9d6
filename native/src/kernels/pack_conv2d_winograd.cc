// Weights of the Winograd kernels: the values of each kernel, as a polynomial, at the points of conv2d_winograd.h,
// divided by what makes the transforms of inputs and products free of division. In double, rounded once.
#include <algorithm>

#include "kernels/conv2d_winograd.h"
#include "kernels/pack.h"
#include "round_up.h"

namespace quantsr {
namespace {

// K taps, `step` apart, to K + 3 values.
template <int K>
void transform_taps(const double* w, int step, double* values) {
  double around_zero = 1;  // product of (0 - q) over all other points q
  for (const double p : Points<K>::kAt) around_zero *= -p * p;
  values[0] = w[0] / around_zero;
  for (int k = 0; k < Points<K>::kPairs; ++k) {
    const double p = Points<K>::kAt[k];
    double divisor = 2 * p * p;  // (p - 0) (p - -p); for -p it is the same
    for (int j = 0; j < Points<K>::kPairs; ++j) {
      const double q = Points<K>::kAt[j];
      if (j != k) divisor *= p * p - q * q;
    }
    double even = 0, odd = 0;
    for (int i = K - 1; i >= 0; i -= 2) even = even * p * p + w[i * step];
    for (int i = K - 2; i >= 0; i -= 2) odd = odd * p * p + w[i * step];
    values[2 * k + 1] = (even + odd * p) / divisor;
    values[2 * k + 2] = (even - odd * p) / divisor;
  }
  values[K + 2] = w[(K - 1) * step];
}

// w: [y][x], inputs apart in memory; values: [y][x]
template <int K>
void transform_kernel(const float* weights, int inputs, double (*values)[K + 3]) {
  double w[K * K], rows[K][K + 3];  // [x][y]
  for (int i = 0; i < K * K; ++i) w[i] = weights[i * inputs];
  for (int j = 0; j < K; ++j) transform_taps<K>(w + j, K, rows[j]);
  for (int i = 0; i < K + 3; ++i) {
    double row[K];
    for (int j = 0; j < K; ++j) row[j] = rows[j][i];
    transform_taps<K>(row, 1, values[i]);
  }
}

template <int K>
PackedConv pack(const ConvShape& s, const float* weights, const float* bias, int panel) {
  constexpr size_t kPositions = (K + 3) * (K + 3);
  const size_t inputs = s.in_channels, outputs = round_up(s.out_channels, kChannelGroup);
  PackedConv packed;
  packed.floats = AlignedArray<float>(outputs * kPositions * inputs);
  for (size_t o = 0; o < size_t(s.out_channels); ++o) {
    const size_t first = o / panel * panel, wide = std::min<size_t>(panel, outputs - first);
    float* to = packed.floats.data() + first * kPositions * inputs + (o - first);
    for (size_t c = 0; c < inputs; ++c) {
      double values[K + 3][K + 3];
      transform_kernel<K>(weights + o * K * K * inputs + c, s.in_channels, values);
      for (size_t n = 0; n < kPositions; ++n)
        to[(n * inputs + c) * wide] = static_cast<float>(values[n / (K + 3)][n % (K + 3)]);
    }
  }
  packed.bias = AlignedArray<float>(outputs);
  std::copy(bias, bias + s.out_channels, packed.bias.data());
  const size_t columns = round_up(inputs, kChannelGroup) + std::min<size_t>(outputs, panel);
  packed.scratch_bytes = kWinogradTiles * (kPositions * columns + 2 * kWinogradGap) * sizeof(float);
  return packed;
}

}  // namespace

PackedConv pack_conv2d_winograd(const ConvShape& s, const float* weights, const float* bias, int panel) {
  return s.kernel == 3 ? pack<3>(s, weights, bias, panel) : pack<5>(s, weights, bias, panel);
}

}  // namespace quantsr
