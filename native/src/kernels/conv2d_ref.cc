// conv2d, plainly: the definition of its result. Each sum starts from the bias and takes one fused multiply-add per ky,
// kx, input channel, in this order; padding counts as zeros.
#include <cmath>

#include "kernels/epilogue_ref.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

float sum_at(const Conv2dJob& job, const float* corner, int o) {
  const int k = job.shape.kernel, channels = job.shape.in_channels;
  const float* w = job.weights + int64_t{o} * k * k * channels;
  float acc = job.bias[o];
  for (int ky = 0; ky < k; ++ky)
    for (int kx = 0; kx < k; ++kx) {
      const float* a = corner + ky * job.in.row_stride + int64_t{kx} * channels;
      for (int i = 0; i < channels; ++i) acc = std::fma(a[i], *w++, acc);
    }
  return acc;
}

}  // namespace

void conv2d_ref(const Conv2dJob& job, int64_t begin, int64_t end, std::byte*) {
  const int half = job.shape.kernel / 2;
  for (int64_t y = begin; y < end; ++y)
    for (int64_t x = 0; x < job.width; ++x) {
      const float* corner = job.in.origin + (y - half) * job.in.row_stride + (x - half) * job.in.pixel_stride;
      for (int o = 0; o < job.shape.out_channels; ++o) finish_ref(job.epilogue, sum_at(job, corner, o), y, x, o);
    }
}

}  // namespace quantsr
