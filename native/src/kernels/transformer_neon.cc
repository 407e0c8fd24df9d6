#include "kernels/lanes_neon.h"
#include "kernels/transformer_vector.h"

namespace quantsr {

const TransformerKernels kTransformerNeon{"neon", Isa::neon, norm_rows<LanesNeon>, gelu_rows<LanesNeon>,
                                          attention<LanesNeon>};

}  // namespace quantsr
