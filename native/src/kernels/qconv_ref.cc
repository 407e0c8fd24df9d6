// qconv2d, plainly: the definition of its result.
#include "kernels/epilogue_ref.h"
#include "kernels/kernels.h"

namespace quantsr {
namespace {

int32_t sum_at(const QConvJob& job, const uint8_t* corner, int o) {
  const int k = job.shape.kernel, channels = job.shape.in_channels;
  const int8_t* w = job.weights + int64_t{o} * k * k * channels;
  int32_t acc = job.init[o];
  for (int ky = 0; ky < k; ++ky)
    for (int kx = 0; kx < k; ++kx) {
      const uint8_t* a = corner + ky * job.in.row_stride + kx * job.in.pixel_stride;
      for (int i = 0; i < channels; ++i) acc += a[i] * *w++;
    }
  return acc;
}

}  // namespace

void qconv_ref(const QConvJob& job, int64_t begin, int64_t end, std::byte*) {
  const int half = job.shape.kernel / 2;
  for (int64_t y = begin; y < end; ++y)
    for (int64_t x = 0; x < job.width; ++x) {
      const uint8_t* corner = job.in.origin + (y - half) * job.in.row_stride + (x - half) * job.in.pixel_stride;
      for (int o = 0; o < job.shape.out_channels; ++o) {
        const float scaled = static_cast<float>(sum_at(job, corner, o)) * job.epilogue.mul[o];
        finish_ref(job.epilogue, scaled + job.epilogue.bias[o], y, x, o);
      }
    }
}

}  // namespace quantsr
