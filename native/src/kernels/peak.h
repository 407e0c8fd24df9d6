// What the CPU can do at most: a bare instruction on independent registers, nothing else. Each returns the
// multiply-adds done.
#pragma once

#include <cstdint>

namespace quantsr {

double peak_vnni(int64_t rounds);      // vpdpbusd on 512 bits: peak_avx512vnni.cc
double peak_fma(int64_t rounds);       // vfmadd on 512 bits: peak_avx512vnni.cc
double peak_vnni_256(int64_t rounds);  // vpdpbusd on 256 bits, without AVX-512: peak_avxvnni.cc

}  // namespace quantsr
