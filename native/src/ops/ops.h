// The ops that are not convolutions, a row at a time. Views as in kernels/epilogue.h; outputs of affine, relu and
// residual may be their inputs' memory.
#pragma once

#include <cstdint>

#include "kernels/epilogue.h"

namespace quantsr {

// y = x * scale[c] + offset[c]
void affine_row(View<const float> x, const float* scale, const float* offset, View<float> y, int64_t row, int64_t width,
                int channels);
// y = max(x, 0)
void relu_row(View<const float> x, View<float> y, int64_t row, int64_t width, int channels);
// y = skip * gain + branch
void residual_row(View<const float> skip, View<const float> branch, float gain, View<float> y, int64_t row,
                  int64_t width, int channels);
// a = rne(min(max(x * inv[c] + offset[c], 0), levels))
void quantize_row(View<const float> x, const float* inv, const float* offset, float levels, View<uint8_t> a,
                  int64_t row, int64_t width, int channels);
// y[row * r + i, x * r + j, c] = x[row, x, c * r * r + i * r + j] * scale[c] + offset[c], r: 2, 3, 4; channels: of y.
// scale null: neither scale nor offset.
void pixel_shuffle_row(View<const float> x, int upscale, const float* scale, const float* offset, View<float> y,
                       int64_t row, int64_t width, int channels);

// y continues x, height x width pixels, to the right and below: mirrored at the last pixel and again at the first.
// row, padded: of y.
void pad_row(View<const float> x, int64_t height, int64_t width, View<float> y, int64_t row, int64_t padded,
             int channels);
// y = x; width: of y
void crop_row(View<const float> x, View<float> y, int64_t row, int64_t width, int channels);

}  // namespace quantsr
