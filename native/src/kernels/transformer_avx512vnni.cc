#include "kernels/lanes_avx512.h"
#include "kernels/transformer_vector.h"

namespace quantsr {

const TransformerKernels kTransformerAvx512{"avx512", Isa::avx512vnni, norm_rows<LanesAvx512>, gelu_rows<LanesAvx512>,
                                            attention<LanesAvx512>};

}  // namespace quantsr
