#include "workspace.h"

#include <algorithm>
#include <type_traits>

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

Workspace::Layout Workspace::layout(const Slot& slot, int64_t height, int64_t width) {
  Layout l;
  l.height = checked_product(height, slot.scale);
  l.width = checked_product(width, slot.scale);
  l.pixel_stride = slot.is_codes ? round_up(slot.channels, kChannelGroup) : slot.channels;
  const int64_t columns = (slot.whole_runs ? round_up(l.width, kPixelRun) : l.width) + 2 * slot.pad;
  const int64_t rows = l.height + (slot.whole_runs ? kRowRun - 1 : 0) + 2 * slot.pad;
  const int64_t below = slot.rows_below ? kPixelRun : 0;
  l.row_stride = checked_product(columns, l.pixel_stride);
  l.offset = slot.pad * (l.row_stride + l.pixel_stride);
  l.total = checked_product(rows + below, l.row_stride) + (slot.is_codes ? kReadBehind * l.pixel_stride : 0);
  return l;
}

void Workspace::make_room(const Slot& slot, Buffer& b) {
  const Layout& l = b.layout;
  const auto fill = [&](auto& array, auto value) {
    if (static_cast<int64_t>(array.size()) < l.total) {
      array = {};  // gives the old memory back before it takes the new
      array = std::decay_t<decltype(array)>(l.total);
    }
    fill_border(array.data(), l.total, l.offset, l.row_stride, l.height, l.width * l.pixel_stride, value);
  };
  slot.is_codes ? fill(b.codes, static_cast<uint8_t>(slot.zero)) : fill(b.floats, 0.0f);
}

int64_t Workspace::bytes(const Plan& plan, int64_t height, int64_t width) {
  int64_t sum = 0;
  for (size_t i = 0; i < plan.slots.size(); ++i)
    if (static_cast<int>(i) != plan.output_slot)
      sum += layout(plan.slots[i], height, width).total * (plan.slots[i].is_codes ? 1 : int64_t{sizeof(float)});
  return sum;
}

void Workspace::prepare(const Plan& plan, int64_t height, int64_t width) {
  if (height == height_ && width == width_) return;
  height_ = width_ = 0;  // so that a failure below is not taken for done
  buffers_.resize(plan.slots.size());
  for (size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].layout = layout(plan.slots[i], height, width);
    if (static_cast<int>(i) != plan.output_slot) make_room(plan.slots[i], buffers_[i]);
  }
  height_ = height;
  width_ = width;
}

void Workspace::prepare_scratch(const Plan& plan, int threads) {
  for (const Step& step : plan.steps)
    scratch_each_ = std::max({scratch_each_, step.packed.scratch_bytes, step.qedges.scratch_bytes()});
  scratch_each_ = static_cast<size_t>(round_up(static_cast<int64_t>(scratch_each_), 64));
  scratch_ = AlignedArray<std::byte>(scratch_each_ * threads);
}

View<float> Workspace::floats(int slot) const {
  const Buffer& b = buffers_[slot];
  float* data = b.external ? b.external : const_cast<float*>(b.floats.data());
  return {data + b.layout.offset, b.layout.row_stride, b.layout.pixel_stride};
}

View<uint8_t> Workspace::codes(int slot) const {
  const Buffer& b = buffers_[slot];
  return {const_cast<uint8_t*>(b.codes.data()) + b.layout.offset, b.layout.row_stride, b.layout.pixel_stride};
}

}  // namespace quantsr
