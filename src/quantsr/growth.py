"""A deeper network from a shallower one, with the same outputs (Net2DeeperNet; Chen et al., ICLR 2016, 1511.05641)."""

import dataclasses
import re

from torch import nn

from quantsr.checkpoint import Checkpoint, CheckpointError
from quantsr.quant import QuantConfig


def grown(network: nn.Module, source: Checkpoint, quant: QuantConfig | None) -> Checkpoint:
    """`source` with its blocks spread evenly over the deeper `network`, whose other blocks become the identity.

    Raises CheckpointError if either is quantized: weights of zero have no scale.
    """
    old, new = source.config.model.blocks, len(network.body)
    if quant or source.config.quant:
        raise CheckpointError(
            f"run.init: got {old} blocks for {new}, wanted as many, or both networks in float: "
            "train the deeper network in float first"
        )
    places = [block * new // old for block in range(old)]
    tensors = {_moved(name, places): tensor for name, tensor in source.tensors.items()}
    for index in sorted(set(range(new)) - set(places)):
        block = network.body[index]
        nn.init.zeros_(block.last().weight)
        nn.init.zeros_(block.last().bias)
        tensors |= {f"ema.body.{index}.{name}": tensor for name, tensor in block.state_dict().items()}
    return dataclasses.replace(source, tensors=tensors)


def _moved(name: str, places: list[int]) -> str:
    """The name of a tensor of block b, such as "ema.body.b.gain", after the block's move to places[b]."""
    return re.sub(r"(?<=\.body\.)\d+", lambda block: str(places[int(block[0])]), name)
