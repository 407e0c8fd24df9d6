#include "kernels/peak.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "kernels/kernels.h"
#include "quantsr/engine.h"

namespace quantsr {

double vpdpbusd_peak() {
#ifdef QUANTSR_X86
  constexpr int64_t kRounds = 1000000;  // some milliseconds
  const auto seconds = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  };
  const std::vector<std::string> isas = available_isas();
  for (const auto& [isa, peak] : {std::pair(Isa::avx512vnni, &peak_vnni), std::pair(Isa::avxvnni, &peak_vnni_256)}) {
    if (std::find(isas.begin(), isas.end(), isa_name(isa)) == isas.end()) continue;
    const double start = seconds(), macs = peak(kRounds);
    return macs / (seconds() - start);
  }
#endif
  return 0;
}

}  // namespace quantsr
