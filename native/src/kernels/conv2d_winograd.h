// Winograd convolution of tiles of 4 x 4 outputs, in one dimension: the arithmetic that conv2d_winograd_*.cc share, and
// by which their result is defined. The 4 outputs of a kernel of K taps are coefficients of a product of polynomials.
// That has K + 3 coefficients and is found from its values at K + 3 points, each value being one product: in two
// dimensions (K + 3)^2 products per 16 outputs, instead of 16 K^2.
//   3 taps: 0, 3/4, -3/4, 3/2, -3/2, infinity          5 taps: 0, 1/2, -1/2, 1, -1, 2, -2, infinity
// The points are those of the smallest rounding error (docs/numerics.md) whose products are exact in float32.
//
// F: a float or several, with + and - and `fma`. All is in an unnamed namespace: files of different compiler flags must
// not share functions.
#pragma once

#include "kernels/kernels.h"

namespace quantsr {
namespace {

// Tiles that a thread works on together, and floats between the values of one tile and the next: so that a position's
// values of several tiles do not fall into the same set of a cache.
constexpr int kWinogradTiles = 16;
constexpr int kWinogradGap = 16;

template <int K>
struct Points;  // the positive ones

template <>
struct Points<3> {
  static constexpr int kPairs = 2;
  static constexpr float kAt[kPairs] = {0.75f, 1.5f};
};

template <>
struct Points<5> {
  static constexpr int kPairs = 3;
  static constexpr float kAt[kPairs] = {0.5f, 1.0f, 2.0f};
};

// The coefficients of x^0, x^2, x^4 .. of the product of all (x^2 - p^2), or of all but one p; the highest is 1.
template <int K>
struct EvenPolynomial {
  float of[Points<K>::kPairs + 1] = {1.0f};

  constexpr explicit EvenPolynomial(int without = -1) {
    int degree = 0;
    for (int k = 0; k < Points<K>::kPairs; ++k) {
      if (k == without) continue;
      const float square = Points<K>::kAt[k] * Points<K>::kAt[k];
      ++degree;
      for (int i = degree; i >= 0; --i) of[i] = (i > 0 ? of[i - 1] : 0.0f) - (i < degree ? of[i] * square : 0.0f);
    }
  }
};

template <int K>
constexpr EvenPolynomial<K> kAllPairs;
template <int K>
constexpr EvenPolynomial<K> kOtherPairs[] = {EvenPolynomial<K>(0), EvenPolynomial<K>(1), EvenPolynomial<K>(2)};

// sum of of[i] * d[2 i], from the highest term down
template <int K, int Terms, class F>
inline F dot(const EvenPolynomial<K>& polynomial, const F* d) {
  F sum = d[2 * (Terms - 1)];
#pragma GCC unroll 4
  for (int i = Terms - 2; i >= 0; --i) sum = F::fma(d[2 * i], F(polynomial.of[i]), sum);
  return sum;
}

// K + 3 inputs to their K + 3 values, in the order of the points above.
template <int K, class F>
inline void transform_inputs(const F* d, F* t) {
  constexpr int kPairs = Points<K>::kPairs;
  t[0] = dot<K, kPairs + 1>(kAllPairs<K>, d);
  t[K + 2] = dot<K, kPairs + 1>(kAllPairs<K>, d + 1);
#pragma GCC unroll 4
  for (int k = 0; k < kPairs; ++k) {
    const F odd = dot<K, kPairs>(kOtherPairs<K>[k], d + 1), even = dot<K, kPairs>(kOtherPairs<K>[k], d + 2);
    t[2 * k + 1] = F::fma(odd, F(Points<K>::kAt[k]), even);
    t[2 * k + 2] = F::fma(odd, F(-Points<K>::kAt[k]), even);
  }
}

// K + 3 products to 4 outputs.
template <int K, class F>
inline void transform_products(const F* m, F* y) {
  constexpr int kPairs = Points<K>::kPairs;
  const F zero(0.0f);
  y[0] = m[0], y[1] = zero, y[2] = zero, y[3] = m[K + 2];
#pragma GCC unroll 4
  for (int k = 0; k < kPairs; ++k) {
    constexpr const float* kAt = Points<K>::kAt;
    const F sum = m[2 * k + 1] + m[2 * k + 2], difference = m[2 * k + 1] - m[2 * k + 2];
    y[0] = y[0] + sum;
    y[1] = F::fma(difference, F(kAt[k]), y[1]);
    y[2] = F::fma(sum, F(kAt[k] * kAt[k]), y[2]);
    y[3] = F::fma(difference, F(kAt[k] * kAt[k] * kAt[k]), y[3]);
  }
}

}  // namespace
}  // namespace quantsr
