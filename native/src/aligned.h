// A fixed array on a 64-byte boundary: one cache line, one AVX-512 register.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace quantsr {

template <class T>
class AlignedArray {
  static_assert(std::is_trivial_v<T>);

 public:
  AlignedArray() = default;
  // All zero.
  explicit AlignedArray(size_t size) : size_(size), data_(allocate(size)) {
    if (size != 0) std::memset(data_.get(), 0, size * sizeof(T));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlign); }
  };
  static T* allocate(size_t size) {
    if (size > SIZE_MAX / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(::operator new(size * sizeof(T), kAlign));
  }

  size_t size_ = 0;
  std::unique_ptr<T, Free> data_;
};

}  // namespace quantsr
