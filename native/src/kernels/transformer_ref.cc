#include "kernels/lanes_ref.h"
#include "kernels/qattention_vector.h"

namespace quantsr {

const TransformerKernels kTransformerRef{"ref", norm_rows<LanesRef>, gelu_rows<LanesRef>, attention<LanesRef>,
                                         qattention<LanesRef>};

}  // namespace quantsr
