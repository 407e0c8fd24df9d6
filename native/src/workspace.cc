#include "workspace.h"

#include <algorithm>

#include "error.h"

namespace quantsr {
namespace {

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

int64_t checked_product(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product) || product > INT64_MAX / 16)
    fail("image size", "buffers that fit 64-bit sizes", std::to_string(a) + " x " + std::to_string(b));
  return product;
}

// Fills all that lies outside height x width pixels.
template <class T>
void fill_border(T* data, int64_t total, int64_t offset, int64_t row_stride, int64_t height, int64_t row_size,
                 T value) {
  T* at = data;
  for (int64_t y = 0; y < height; ++y) {
    T* row = data + offset + y * row_stride;
    std::fill(at, row, value);
    at = row + row_size;
  }
  std::fill(at, data + total, value);
}

}  // namespace

void Workspace::lay_out(const Slot& slot, int64_t height, int64_t width, bool external, Buffer& b) {
  b.height = checked_product(height, slot.scale);
  b.width = checked_product(width, slot.scale);
  b.pixel_stride = slot.is_codes ? round_up(slot.channels, kChannelGroup) : slot.channels;
  const int64_t columns = (slot.whole_runs ? round_up(b.width, kPixelRun) : b.width) + 2 * slot.pad;
  const int64_t rows = b.height + (slot.whole_runs ? kRowRun - 1 : 0) + 2 * slot.pad;
  const int64_t below = slot.rows_below ? kPixelRun : 0;
  b.row_stride = checked_product(columns, b.pixel_stride);
  b.offset = slot.pad * (b.row_stride + b.pixel_stride);
  const int64_t total = checked_product(rows + below, b.row_stride) + (slot.is_codes ? kReadBehind : 0);
  if (external) return;
  if (slot.is_codes) {
    if (static_cast<int64_t>(b.codes.size()) < total) b.codes = AlignedArray<uint8_t>(total);
    fill_border(b.codes.data(), total, b.offset, b.row_stride, b.height, b.width * b.pixel_stride,
                static_cast<uint8_t>(slot.zero));
  } else {
    if (static_cast<int64_t>(b.floats.size()) < total) b.floats = AlignedArray<float>(total);
    fill_border(b.floats.data(), total, b.offset, b.row_stride, b.height, b.width * b.pixel_stride, 0.0f);
  }
}

void Workspace::prepare(const Plan& plan, int64_t height, int64_t width) {
  if (height == height_ && width == width_) return;
  height_ = width_ = 0;  // so that a failure below is not taken for done
  buffers_.resize(plan.slots.size());
  for (size_t i = 0; i < buffers_.size(); ++i)
    lay_out(plan.slots[i], height, width, static_cast<int>(i) == plan.output_slot, buffers_[i]);
  height_ = height;
  width_ = width;
}

void Workspace::prepare_scratch(const Plan& plan, int threads) {
  for (const Step& step : plan.steps) scratch_each_ = std::max(scratch_each_, step.packed.scratch_bytes);
  scratch_each_ = static_cast<size_t>(round_up(static_cast<int64_t>(scratch_each_), 64));
  scratch_ = AlignedArray<std::byte>(scratch_each_ * threads);
}

View<float> Workspace::floats(int slot) const {
  const Buffer& b = buffers_[slot];
  float* data = b.external ? b.external : const_cast<float*>(b.floats.data());
  return {data + b.offset, b.row_stride, b.pixel_stride};
}

View<uint8_t> Workspace::codes(int slot) const {
  const Buffer& b = buffers_[slot];
  return {const_cast<uint8_t*>(b.codes.data()) + b.offset, b.row_stride, b.pixel_stride};
}

}  // namespace quantsr
