#include "kernels/lanes_avx2.h"
#include "kernels/qattention_vector.h"

namespace quantsr {

const TransformerKernels kTransformerAvx2{"avx2", norm_rows<LanesAvx2>, gelu_rows<LanesAvx2>, attention<LanesAvx2>,
                                          qattention<LanesAvx2>};

}  // namespace quantsr
