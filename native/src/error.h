// Errors tell where, what was wanted and what was got.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace quantsr {

template <class Wanted, class Got>
[[noreturn]] void fail(const std::string& where, const Wanted& wanted, const Got& got) {
  std::ostringstream text;
  text << where << ": wanted " << wanted << ", got " << got;
  throw std::invalid_argument(text.str());
}

inline std::string up_to(int64_t most) { return "1.." + std::to_string(most); }

}  // namespace quantsr
