// The buffers of a plan for one image size.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace quantsr {

class Workspace {
 public:
  // Makes room for an image of height x width and fills the borders. Cheap if nothing changed since the last call.
  void prepare(const Plan& plan, int64_t height, int64_t width);

  // What `prepare` takes for an image of this size.
  static int64_t bytes(const Plan& plan, int64_t height, int64_t width);

  View<float> floats(int slot) const;
  View<uint8_t> codes(int slot) const;
  int64_t height(int slot) const { return buffers_[slot].layout.height; }
  int64_t width(int slot) const { return buffers_[slot].layout.width; }

  // The output slot's memory is the caller's: dense rows of pixels.
  void set_output(int slot, float* out) { buffers_[slot].external = out; }

  std::byte* scratch(int worker) { return scratch_.data() + worker * scratch_each_; }
  void prepare_scratch(const Plan& plan, int threads);

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

  std::vector<Buffer> buffers_;
  AlignedArray<std::byte> scratch_;
  size_t scratch_each_ = 0;
  int64_t height_ = 0, width_ = 0;
};

}  // namespace quantsr
