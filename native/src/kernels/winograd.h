// Exact fast convolution of codes: 3x3 kernels, tile by tile, as products of transformed inputs and transformed
// weights.
//
// F(2x2): 16 products for 4 outputs, by the points 0, 1, -1, infinity. F(4x4): 46 products for 16 outputs, by the
// points 0, 1, -1, i, -i, infinity of the Gaussian integers (Meng and Brothers, arXiv 1901.01965): i and -i are
// conjugate, so one complex product serves both, and a complex product takes 3 real ones (Karatsuba). Both only add and
// subtract inputs, so 4-bit codes stay inside a byte: at most 16 * 15 = 240 (F(4x4)) and 4 * 15 = 60 (F(2x2)). All is
// done in integers and the result is a power of two times the convolution, so nothing is ever rounded.
//
// A transformed input can be negative; an offset per position, added in wrapping bytes, brings it to 0..255 (or, for
// kernels that multiply signed bytes, to -128..127), and the accumulators start from what undoes it.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace quantsr {

// The templates below are for T = int and for vectors of any width: anything with + and -, which may wrap. Vector types
// must be local to their file, since kernels are compiled with flags of their own.

struct F2x2 {
  static constexpr int kTile = 2, kInput = 4, kPositions = 16;
  static constexpr int kGain = 4;  // the result is this many times the convolution

  template <class T>
  static void data_1d(const T (&d)[4], T (&c)[4]) {
    c[0] = d[0] - d[2];
    c[1] = d[1] + d[2];
    c[2] = d[2] - d[1];
    c[3] = d[3] - d[1];
  }
  static void weight_1d(const int (&w)[3], int (&c)[4]) {
    c[0] = 2 * w[0];
    c[1] = w[0] + w[1] + w[2];
    c[2] = w[0] - w[1] + w[2];
    c[3] = 2 * w[2];
  }
  // From components by rows and columns to products: put(position, operand).
  template <class T, class Put>
  static void data_operands(const T (&c)[4][4], Put put) {
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < 4; ++b) put(4 * a + b, c[a][b]);
  }
  template <class Put>
  static void weight_operands(const int (&c)[4][4], Put put) {
    data_operands(c, put);
  }
  // From products, get(position), to outputs y[row][column].
  template <class T, class Get>
  static void outputs(Get get, T (&y)[2][2]) {
    T t[4][2];
    for (int a = 0; a < 4; ++a) inverse(get(4 * a), get(4 * a + 1), get(4 * a + 2), get(4 * a + 3), t[a][0], t[a][1]);
    for (int k = 0; k < 2; ++k) inverse(t[0][k], t[1][k], t[2][k], t[3][k], y[0][k], y[1][k]);
  }

 private:
  template <class T>
  static void inverse(const T& m0, const T& m1, const T& m2, const T& m3, T& y0, T& y1) {
    y0 = m0 + m1 + m2;
    y1 = m1 - m2 + m3;
  }
};

// Components are named z, p, m, f (points 0, 1, -1, infinity) and re, im (point i): 0..5.
struct F4x4 {
  static constexpr int kTile = 4, kInput = 6, kPositions = 46;
  static constexpr int kGain = 16;

  template <class T>
  static void data_1d(const T (&d)[6], T (&c)[6]) {
    const T even = d[2] + d[4], odd = d[1] + d[3];
    c[0] = d[0] - d[4];
    c[1] = even + odd;
    c[2] = even - odd;
    c[3] = d[5] - d[1];
    c[4] = d[4] - d[2];
    c[5] = d[3] - d[1];
  }
  static void weight_1d(const int (&w)[3], int (&c)[6]) {
    c[0] = 4 * w[0];
    c[1] = w[0] + w[1] + w[2];
    c[2] = w[0] - w[1] + w[2];
    c[3] = 4 * w[2];
    c[4] = w[0] - w[2];
    c[5] = w[1];
  }

  // Positions: 0..15 real rows and columns; then triples for one complex product each: 16.. a real row, 28.. a real
  // column, 40 the points (i, i), 43 the points (i, -i). Of a triple the operands are, for data r + i*j and weight s +
  // i*t: data r+j, r, j and weights s, t-s, s+t; so re = first - third product, im = first + second.
  template <class T, class Put>
  static void data_operands(const T (&c)[6][6], Put put) {
    each_operand(c, put, [&](int n, const T& re, const T& im) {
      put(n, re + im);
      put(n + 1, re);
      put(n + 2, im);
    });
  }
  template <class Put>
  static void weight_operands(const int (&c)[6][6], Put put) {
    each_operand(c, put, [&](int n, int re, int im) {
      put(n, re);
      put(n + 1, im - re);
      put(n + 2, re + im);
    });
  }

  template <class T, class Get>
  static void outputs(Get get, T (&y)[4][4]) {
    const auto re = [&](int n) { return get(n) - get(n + 2); };
    const auto im = [&](int n) { return get(n) + get(n + 1); };
    T t[6][4];
#pragma GCC unroll 4
    for (int a = 0; a < 4; ++a) {
      const T r = re(16 + 3 * a), i = im(16 + 3 * a);
      inverse(get(4 * a), get(4 * a + 1), get(4 * a + 2), get(4 * a + 3), r + r, i + i, t[a]);
    }
    // The rows re and im; the sums over (i, i) and (i, -i) hold the factor 2 of the conjugate already.
    const T vr = re(40), vi = im(40), wr = re(43), wi = im(43);
    inverse(re(28), re(31), re(34), re(37), vr + wr, vi - wi, t[4]);
    inverse(im(28), im(31), im(34), im(37), vi + wi, wr - vr, t[5]);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      T column[4];
      inverse(t[0][k], t[1][k], t[2][k], t[3][k], t[4][k] + t[4][k], t[5][k] + t[5][k], column);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) y[i][k] = column[i];
    }
  }

 private:
  template <class T, class Put, class Triple>
  static void each_operand(const T (&c)[6][6], Put put, Triple triple) {
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < 4; ++b) put(4 * a + b, c[a][b]);
    for (int a = 0; a < 4; ++a) triple(16 + 3 * a, c[a][4], c[a][5]);
    for (int b = 0; b < 4; ++b) triple(28 + 3 * b, c[4][b], c[5][b]);
    triple(40, c[4][4] - c[5][5], c[4][5] + c[5][4]);
    triple(43, c[4][4] + c[5][5], c[5][4] - c[4][5]);
  }

  // r, i: twice the complex component.
  template <class T>
  static void inverse(const T& z, const T& p, const T& m, const T& f, const T& r, const T& i, T (&y)[4]) {
    const T even = p + m, odd = p - m;
    y[0] = even + r + z;
    y[1] = odd - i;
    y[2] = even - r;
    y[3] = odd + i + f;
  }
};

// The components of a kInput x kInput patch, by rows, then by columns.
template <class F, class T>
inline void data_components(const T (&d)[F::kInput][F::kInput], T (&c)[F::kInput][F::kInput]) {
  T rows[F::kInput][F::kInput];  // [column][component of the rows]
#pragma GCC unroll 6
  for (int x = 0; x < F::kInput; ++x) {
    T column[F::kInput];
#pragma GCC unroll 6
    for (int y = 0; y < F::kInput; ++y) column[y] = d[y][x];
    F::data_1d(column, rows[x]);
  }
#pragma GCC unroll 6
  for (int a = 0; a < F::kInput; ++a) {
    T row[F::kInput];
#pragma GCC unroll 6
    for (int x = 0; x < F::kInput; ++x) row[x] = rows[x][a];
    F::data_1d(row, c[a]);
  }
}

// --- packing (winograd.cc) ---

enum class Bytes { u8, s8 };  // what the kernel multiplies weights with

// Whether 3x3 layers of this width fit: transformed inputs in a byte, transformed weights in -128..127.
template <class F>
bool winograd_fits(const ConvShape& shape);

// Weights: panels of `panel` outputs (the last one holds the groups of 16 that remain), and in each
// [position][input / 4][output][4 inputs]; init: [panel][position][output]; offsets: what brings each position's
// transformed input into the range of a byte.
template <class F>
PackedConv pack_qconv_winograd(const ConvShape& shape, const int8_t* weights, int panel, Bytes bytes);

// For kernels with vpmaddubsw, whose panels are 16 outputs: how many steps of 4 inputs can be added up in 16 bits, 16,
// 8, 4, 2 or 1 (and a divisor of the layer's steps). [panel][position]. Empty if somewhere the two products that the
// instruction itself adds can saturate. codes: as packed above, Bytes::u8.
template <class F>
AlignedArray<int32_t> winograd_steps(const ConvShape& shape, const int8_t* codes);

// The prepare functions of the kernels.
PackedConv pack_qconv_f2x2_avx2(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f4x4_avx2(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f2x2_avxvnni(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f4x4_avxvnni(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f2x2_avx512vnni(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f4x4_avx512vnni(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f2x2_neon(const ConvShape& shape, const int8_t* weights);
PackedConv pack_qconv_f4x4_neon(const ConvShape& shape, const int8_t* weights);

}  // namespace quantsr
