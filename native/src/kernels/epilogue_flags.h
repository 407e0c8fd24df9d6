// What the vectorized epilogues share. Everything here is a template or static, since files with flags of their own
// include it.
#pragma once

#include "kernels/epilogue.h"

namespace quantsr {

// Where a register block lies: pixels x .. x + pixels - 1 of row y, outputs from o on.
struct Block {
  int64_t y, x;
  int pixels, o;
};

template <class T>
static inline T* at(const View<T>& view, const Block& b) {
  return view.origin + b.y * view.row_stride + b.x * view.pixel_stride + b.o;
}

// What an epilogue does, as template arguments, because a test per vector costs several percent of a layer.
template <bool Skip, bool Out, bool Codes>
struct Flags {
  static constexpr bool kSkip = Skip, kOut = Out, kCodes = Codes;
};

// Calls work(Flags<...>{}) with those of an epilogue.
template <class Work>
static inline void with_flags(const Epilogue& e, Work work) {
  const bool skip = e.skip.origin != nullptr, out = e.out.origin != nullptr, codes = e.codes.origin != nullptr;
  if (skip && out && codes) return work(Flags<true, true, true>{});
  if (skip && codes) return work(Flags<true, false, true>{});
  if (skip) return work(Flags<true, true, false>{});
  if (out && codes) return work(Flags<false, true, true>{});
  if (codes) return work(Flags<false, false, true>{});
  work(Flags<false, true, false>{});
}

}  // namespace quantsr
