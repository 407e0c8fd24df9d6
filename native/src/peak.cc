#include <ctime>

#include "kernels/kernels.h"
#include "quantsr/engine.h"

namespace quantsr {

#ifdef QUANTSR_X86
double peak_vnni(int64_t rounds);  // kernels/peak_avx512vnni.cc
#endif

double vpdpbusd_peak() {
#ifdef QUANTSR_X86
  constexpr int64_t kRounds = 1000000;  // some milliseconds
  for (const std::string& isa : available_isas()) {
    if (isa != isa_name(Isa::avx512vnni)) continue;
    const auto seconds = [] {
      timespec t;
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
      return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
    };
    const double start = seconds(), macs = peak_vnni(kRounds);
    return macs / (seconds() - start);
  }
#endif
  return 0;
}

}  // namespace quantsr
