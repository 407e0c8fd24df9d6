// The buffers of a plan for one image size.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace quantsr {

// Of a value; x, y: of the top left pixel.
struct Region {
  int64_t y, x, height, width;
};

class Workspace {
 public:
  // Makes room for an image of height x width and fills the borders. Cheap if nothing changed since the last call.
  void prepare(const Plan& plan, int64_t height, int64_t width);

  // What `prepare` takes for an image of this size.
  static int64_t bytes(const Plan& plan, int64_t height, int64_t width);

  View<float> floats(int slot) const { return floats_of(buffers_[slot]); }
  View<uint8_t> codes(int slot) const { return codes_of(buffers_[slot]); }
  // From the region's first pixel on; a slot of tiles holds nothing else.
  View<float> floats(int slot, const Region& region, int worker) const;
  View<uint8_t> codes(int slot, const Region& region, int worker) const;
  int64_t height(int slot) const { return buffers_[slot].layout.height; }
  int64_t width(int slot) const { return buffers_[slot].layout.width; }

  // The output slot's memory is the caller's: dense rows of pixels.
  void set_output(int slot, float* out) { buffers_[slot].external = out; }

  std::byte* scratch(int worker) { return scratch_.data() + worker * scratch_each_; }
  // What each thread has for itself.
  void prepare_threads(const Plan& plan, int threads);

 private:
  struct Layout {
    int64_t height, width, pixel_stride, row_stride, offset, total;  // elements
  };
  struct Buffer {
    Layout layout;
    AlignedArray<float> floats;
    AlignedArray<uint8_t> codes;
    float* external = nullptr;
  };

  static Layout layout(const Slot& slot, int64_t height, int64_t width);
  static void make_room(const Slot& slot, Buffer& buffer);
  void make_tiles(const Plan& plan, int threads);
  const Buffer& tile(int slot, int worker) const { return tiles_[worker * is_tile_.size() + slot]; }
  static View<float> floats_of(const Buffer& buffer);
  static View<uint8_t> codes_of(const Buffer& buffer);

  std::vector<Buffer> buffers_;
  std::vector<Buffer> tiles_;  // [worker][slot]
  std::vector<bool> is_tile_;  // of each slot
  AlignedArray<std::byte> scratch_;
  size_t scratch_each_ = 0;
  int64_t height_ = 0, width_ = 0;
};

}  // namespace quantsr
