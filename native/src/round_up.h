// Local to each file that includes it, as kernels are compiled for different instruction sets.
#pragma once

namespace quantsr {
namespace {

// The first multiple of `step` from n on.
template <class T>
constexpr T round_up(T n, int step) {
  return (n + step - 1) / step * step;
}

}  // namespace
}  // namespace quantsr
