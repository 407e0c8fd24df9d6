#include "kernels/lanes_neon.h"
#include "kernels/qattention_vector.h"

namespace quantsr {

const TransformerKernels kTransformerNeon{"neon", norm_rows<LanesNeon>, gelu_rows<LanesNeon>, attention<LanesNeon>,
                                          qattention<LanesNeon>};

}  // namespace quantsr
