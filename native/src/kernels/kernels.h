// The interface of the convolution kernels. A kernel is a prepare function, run once per layer at load, and a run
// function that computes the rows begin .. end - 1 of one image. Both are multiples of kRowRun, or `end` is the image's
// height: kernels that compute several rows at once stop nowhere else. Rows are independent of each other: any thread
// may compute any of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "aligned.h"
#include "kernels/epilogue.h"

namespace quantsr {

enum class Isa { ref, avx2, avxvnni, avx512vnni, amx, neon };

// Kernels compute whole runs of pixels and drop those past the end of a row. Where a run's length divides this (6, 12
// or a tile's 4), it stays in the rows of buffers that a convolution reads, which are a multiple of this long. AMX
// takes runs of 16 and reads on in what follows a row; kRowRun and kReadBehind see to it that something does.
constexpr int kPixelRun = 12;
// Rows are shared out in bands of this many; a kernel may read up to so many rows at once.
constexpr int kRowRun = 4;
// Kernels may read this many pixels of codes behind the last row: up to a run of 16, and what fills a register.
constexpr int kReadBehind = 20;

struct ConvShape {
  int in_channels, out_channels, kernel;
  int weight_bits = 0, act_bits = 0, zero = 0;  // qconv2d only
};

// Weights in a kernel's own layout.
struct PackedConv {
  AlignedArray<int8_t> codes;     // qconv2d
  AlignedArray<int32_t> init;     // qconv2d: what each output's accumulator starts from
  AlignedArray<uint8_t> offsets;  // qconv2d, see winograd.h
  AlignedArray<int32_t> steps;    // qconv2d with AVX2, see winograd.h
  AlignedArray<float> floats;     // conv2d
  AlignedArray<float> bias;       // conv2d: what each output's sum starts from
  size_t scratch_bytes = 0;       // wanted per thread
};

struct QConvJob {
  ConvShape shape;
  const int8_t* weights;
  const int32_t* init;
  const uint8_t* offsets;
  const int32_t* steps;
  View<const uint8_t> in;  // border: the byte `zero`; pixel_stride: in_channels rounded up to kChannelGroup
  int64_t height, width;
  Epilogue epilogue;
};

struct Conv2dJob {
  ConvShape shape;
  const float* weights;
  const float* bias;
  // border: 0. Pixels of a kernel's row lie in_channels apart; in.pixel_stride leads from one output pixel's window to
  // the next one's.
  View<const float> in;
  int64_t height, width;
  Epilogue epilogue;
};

// scratch: PackedConv::scratch_bytes, 64-byte aligned, this thread's own.
using RunQConv = void (*)(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
using RunConv2d = void (*)(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);

struct QConvKernel {
  const char* name;
  Isa isa;
  bool (*fits)(const ConvShape&);
  // weights: (O, K, K, I). Without codes if the shape fits but these weights do not.
  PackedConv (*prepare)(const ConvShape&, const int8_t* weights);
  RunQConv run;
};

struct Conv2dKernel {
  const char* name;
  Isa isa;
  bool (*fits)(const ConvShape&);  // the same for all instruction sets, because the shape decides the result's rounding
  PackedConv (*prepare)(const ConvShape&, const float* weights, const float* bias);  // weights: (O, K, K, I)
  RunConv2d run;
};

// kernels/dispatch.cc. All kernels of an instruction set, best first.
std::vector<const QConvKernel*> qconv_kernels(Isa isa);
struct PreparedQConv {
  const QConvKernel* kernel = nullptr;
  PackedConv packed;
};
// For the kernel called `preferred` if it fits, else for the best that fits; never for one of another instruction set.
PreparedQConv prepare_qconv(Isa isa, const ConvShape& shape, const int8_t* weights, const std::string& preferred);
std::vector<const Conv2dKernel*> conv2d_kernels(Isa isa);
const Conv2dKernel& choose_conv2d(Isa isa, const ConvShape& shape);  // the first that fits
const Conv2dKernel& direct_conv2d(Isa isa);                          // the last; it fits all shapes

// The instruction set to use: `wanted`, else $QUANTSR_ISA, else the fastest one. Unknown or unavailable is an error.
Isa choose_isa(const std::string& wanted);
const char* isa_name(Isa isa);

// One per file in kernels/.
void qconv_ref(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_avx2(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_words_avx2(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f2x2_avx2(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f4x4_avx2(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_avxvnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f2x2_avxvnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f4x4_avxvnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_avx512vnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f2x2_avx512vnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f4x4_avx512vnni(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_amx(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_neon(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f2x2_neon(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void qconv_f4x4_neon(const QConvJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_ref(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_avx2(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_avx512vnni(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_neon(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_winograd_ref(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_winograd_avx2(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_winograd_avx512vnni(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);
void conv2d_winograd_neon(const Conv2dJob&, int64_t begin, int64_t end, std::byte* scratch);

}  // namespace quantsr
