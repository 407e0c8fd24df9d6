#include "kernels/lanes_ref.h"
#include "kernels/transformer_vector.h"

namespace quantsr {

const TransformerKernels kTransformerRef{"ref", Isa::ref, norm_rows<LanesRef>, gelu_rows<LanesRef>,
                                         attention<LanesRef>};

}  // namespace quantsr
