"""A deeper network from a shallower one, with the same outputs (Net2DeeperNet; Chen et al., ICLR 2016, 1511.05641).

The new blocks follow the old ones, in the body and in the ranking: of a network with 16 blocks grown to 32, half depth
is what full depth was.
"""

import torch
from torch import nn

from quantsr.checkpoint import CheckpointError
from quantsr.quant import QuantBlock, QuantLayer


@torch.no_grad()
def make_identity(network: nn.Module, first: int) -> None:
    """Makes the blocks from index `first` on the identity: the weights of each block's last layer become 0.

    The steps of its weights stay as they are. Raises CheckpointError where a quantizer stands in the way: one of the
    shortcut, or one of the weights that has no level of 0.
    """
    for block in network.body[first:]:
        if isinstance(block, QuantBlock):
            raise CheckpointError("run.init: got fewer blocks, wanted as many: this placement quantizes the shortcut")
        last = block.last()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if isinstance(last, QuantLayer) and last.weight_quantizer(last.weight).count_nonzero():
            raise CheckpointError("run.init: got fewer blocks, wanted as many: these quantizers have no weight of 0")
