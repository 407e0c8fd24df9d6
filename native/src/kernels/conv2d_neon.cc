// conv2d, direct, with 128-bit fused multiply-adds: each lane is one output and runs through the sum in the order of
// conv2d_ref. A register block is 4 pixels of a row x 16 outputs.
#include "kernels/epilogue_neon.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

constexpr int kPixels = 4;

void block(const Conv2dJob& job, const float* weights, int o, int64_t y, int64_t x) {
  float32x4_t acc[kPixels][4];
#pragma GCC unroll 4
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) acc[r][g] = vld1q_f32(job.bias + o + 4 * g);

  const int k = job.shape.kernel;
  const int64_t pixel = job.in.pixel_stride, run = int64_t{k} * job.shape.in_channels;
  const float* corner = job.in.origin + (y - k / 2) * job.in.row_stride + (x - k / 2) * pixel;
  for (int ky = 0; ky < k; ++ky) {
    const float* a = corner + ky * job.in.row_stride;
    for (int64_t i = 0; i < run; ++i, ++a, weights += 16) {  // pixels are dense: kx and input in one
      float32x4_t w[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) w[g] = vld1q_f32(weights + 4 * g);
#pragma GCC unroll 4
      for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) acc[r][g] = vfmaq_n_f32(acc[r][g], w[g], a[r * pixel]);
    }
  }

#pragma GCC unroll 4
  for (int r = 0; r < kPixels; ++r)
    if (x + r < job.width) finish_neon(job.epilogue, acc[r], y, x + r, o);
}

}  // namespace

void conv2d_neon(const Conv2dJob& job, int64_t begin, int64_t end, std::byte*) {
  const int64_t per_output = int64_t{job.shape.kernel} * job.shape.kernel * job.shape.in_channels;
  for (int64_t y = begin; y < end; ++y)
    for (int o = 0; o < job.shape.out_channels; o += 16)
      for (int64_t x = 0; x < job.width; x += kPixels) block(job, job.weights + o * per_output, o, y, x);
}

}  // namespace quantsr
