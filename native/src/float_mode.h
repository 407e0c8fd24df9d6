// Rounding to nearest and no flushing of denormals, whatever the calling thread has set: the result depends on neither.
#pragma once

#include <cfenv>

namespace quantsr {

// As long as it lives, and in its thread alone.
class DefaultFloatMode {
 public:
  DefaultFloatMode() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatMode() { std::fesetenv(&before_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  std::fenv_t before_;
};

}  // namespace quantsr
