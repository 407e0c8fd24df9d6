#include "kernels/lanes_avx512.h"
#include "kernels/qattention_vector.h"

namespace quantsr {

const TransformerKernels kTransformerAvx512{"avx512", norm_rows<LanesAvx512>, gelu_rows<LanesAvx512>,
                                            attention<LanesAvx512>, qattention<LanesAvx512>};

}  // namespace quantsr
