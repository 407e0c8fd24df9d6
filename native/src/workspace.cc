#include "workspace.h"

#include <algorithm>
#include <type_traits>

#include "error.h"
#include "round_up.h"

namespace quantsr {
namespace {

[[noreturn]] void fail_size(int64_t a, int64_t b) {
  fail("image size", "buffers that fit 64-bit sizes", std::to_string(a) + " x " + std::to_string(b));
}

int64_t checked_product(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product) || product > INT64_MAX / 16) fail_size(a, b);
  return product;
}

template <class T>
View<T> shifted(View<T> view, const Region& region) {
  view.origin += region.y * view.row_stride + region.x * view.pixel_stride;
  return view;
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
  l.height = checked_product(round_up(height, slot.multiple), slot.factor);
  l.width = checked_product(round_up(width, slot.multiple), slot.factor);
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
  for (size_t i = 0; i < plan.slots.size(); ++i) {
    const Slot& slot = plan.slots[i];
    if (static_cast<int>(i) == plan.output_slot || slot.tile) continue;
    const int64_t size = layout(slot, height, width).total * (slot.is_codes ? 1 : int64_t{sizeof(float)});
    if (__builtin_add_overflow(sum, size, &sum)) fail_size(height, width);
  }
  return sum;
}

void Workspace::prepare(const Plan& plan, int64_t height, int64_t width) {
  if (height == height_ && width == width_) return;
  height_ = width_ = 0;  // so that a failure below is not taken for done
  buffers_.resize(plan.slots.size());
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (plan.slots[i].tile) continue;
    buffers_[i].layout = layout(plan.slots[i], height, width);
    if (static_cast<int>(i) != plan.output_slot) make_room(plan.slots[i], buffers_[i]);
  }
  height_ = height;
  width_ = width;
}

void Workspace::prepare_threads(const Plan& plan, int threads) {
  make_tiles(plan, threads);
  for (const Step& step : plan.steps)
    scratch_each_ =
        std::max({scratch_each_, step.packed.scratch_bytes, step.qedges.scratch_bytes(), step.scratch_bytes});
  scratch_each_ = round_up(scratch_each_, 64);
  scratch_ = AlignedArray<std::byte>(scratch_each_ * threads);
}

void Workspace::make_tiles(const Plan& plan, int threads) {
  int64_t height = 0, width = 0;
  for (const Run& run : plan.runs)
    if (run.kind == RunKind::windows) {
      height = std::max<int64_t>(height, run.window);
      width = std::max<int64_t>(width, run.tile_width);
    }
  for (const Slot& slot : plan.slots) is_tile_.push_back(slot.tile);
  tiles_.resize(plan.slots.size() * threads);
  for (size_t i = 0; i < tiles_.size(); ++i) {
    Slot slot = plan.slots[i % plan.slots.size()];
    if (!slot.tile) continue;
    slot.factor = slot.multiple = 1;  // height and width are the value's own
    tiles_[i].layout = layout(slot, height, width);
    make_room(slot, tiles_[i]);
  }
}

View<float> Workspace::floats(int slot, const Region& region, int worker) const {
  return is_tile_[slot] ? floats_of(tile(slot, worker)) : shifted(floats(slot), region);
}

View<uint8_t> Workspace::codes(int slot, const Region& region, int worker) const {
  return is_tile_[slot] ? codes_of(tile(slot, worker)) : shifted(codes(slot), region);
}

View<float> Workspace::floats_of(const Buffer& b) {
  float* data = b.external ? b.external : const_cast<float*>(b.floats.data());
  return {data + b.layout.offset, b.layout.row_stride, b.layout.pixel_stride};
}

View<uint8_t> Workspace::codes_of(const Buffer& b) {
  return {const_cast<uint8_t*>(b.codes.data()) + b.layout.offset, b.layout.row_stride, b.layout.pixel_stride};
}

}  // namespace quantsr
