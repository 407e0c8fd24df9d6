// Weight layouts of the kernels.
#pragma once

#include "kernels/kernels.h"

namespace quantsr {

// Per-channel values with zeros behind, up to a whole channel group.
AlignedArray<float> padded(const float* values, int count);

// As given, (O, K, K, I).
PackedConv pack_qconv_plain(const ConvShape& shape, const int8_t* weights);
PackedConv pack_conv2d_plain(const ConvShape& shape, const float* weights, const float* bias);

// Panels of `panel` outputs (a multiple of 16; the last panel holds the 1.. groups of 16 that remain), and in each
//   qconv2d: [tap][input / 4][output][4 inputs]     conv2d: [tap][input][output]
// with zeros behind the real outputs and, for qconv2d, behind the real inputs up to whole channel groups: as pixels are
// padded alike, the taps of a kernel row are one run of inputs, in the weights and in the image.
PackedConv pack_qconv_panels(const ConvShape& shape, const int8_t* weights, int panel);
PackedConv pack_conv2d_panels(const ConvShape& shape, const float* weights, const float* bias, int panel);

// Panels of 16 outputs; 8-bit codes count from 128.
PackedConv pack_qconv_neon(const ConvShape& shape, const int8_t* weights);

// Panels of 16 outputs, of 16-bit words: [tap][input / 2][output][2 inputs].
PackedConv pack_qconv_words_avx2(const ConvShape& shape, const int8_t* weights);

// For tiles of 4 x 4 outputs and kernels of 3 or 5: panels like those, [position][input][output].
PackedConv pack_conv2d_winograd(const ConvShape& shape, const float* weights, const float* bias, int panel);

}  // namespace quantsr
