"""A deeper network from a shallower one, with the same outputs (Net2DeeperNet; Chen et al., ICLR 2016, 1511.05641).

The new blocks follow the old ones, in the body and in the ranking: of a network with 16 blocks grown to 32, half depth
is what full depth was.
"""

import torch
from torch import Tensor, nn

from quantsr.checkpoint import CheckpointError
from quantsr.quant import QuantBlock, QuantLayer

REFUSED = "run.init: got fewer blocks, wanted as many"


@torch.no_grad()
def make_identity(network: nn.Module, first: int) -> None:
    """Makes the blocks from index `first` on the identity: the weights of each block's last layer become 0.

    The steps of its weights stay as they are. Raises CheckpointError where a quantizer stands in the way: one of the
    shortcut, one of the weights that has no level of 0, or one that passes no gradient to weights that are all 0.
    """
    for block in network.body[first:]:
        if isinstance(block, QuantBlock):
            raise CheckpointError(f"{REFUSED}: this placement quantizes the shortcut")
        last = block.last()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if isinstance(last, QuantLayer):
            quantized, gradient = _quantized(last)
            if quantized.count_nonzero():
                raise CheckpointError(f"{REFUSED}: these quantizers have no weight of 0")
            if not gradient.count_nonzero():
                raise CheckpointError(f"{REFUSED}: with these quantizers weights that are all 0 never learn")


@torch.enable_grad()
def _quantized(layer: QuantLayer) -> tuple[Tensor, Tensor]:
    """A layer's quantized weights, and the gradient of the weights if theirs runs from -1 to 1."""
    weight = layer.weight.detach().clone().requires_grad_()
    quantized = layer.weight_quantizer(weight)
    slope = torch.linspace(-1, 1, weight.numel()).view_as(quantized)
    return quantized, torch.autograd.grad(quantized, weight, slope)[0]
