// The AMX kernel beside its table entry: preparing weights, and asking for the tiles.
#pragma once

#include "kernels/kernels.h"

namespace quantsr {

PackedConv pack_qconv_amx(const ConvShape& shape, const int8_t* weights);

// Whether CPU and operating system have int8 tiles; on Linux, asks the kernel for them.
bool amx_available();

}  // namespace quantsr
