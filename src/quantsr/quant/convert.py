"""Quantizing a float network: swap the layers a placement picks, then calibrate them on data."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quantsr.quant.config import QuantConfig
from quantsr.quant.layers import QuantConv2d
from quantsr.quant.rlq import RLQ

QUANTIZERS: dict[str, type[nn.Module]] = {"rlq": RLQ}

# Named so that a report can say which layers were quantized: papers place quantizers differently.
PLACEMENTS: dict[str, Callable[[str, nn.Module], bool]] = {
    "body": lambda name, module: name.startswith("body.") and type(module) is nn.Conv2d,
}


def quantize(model: nn.Module, config: QuantConfig) -> list[str]:
    """Swaps the layers of the config's placement in place. Returns their names.

    Raises ValueError for an unknown quantizer or placement, or if no layer is picked.
    """
    quantizer = _lookup(QUANTIZERS, config.quantizer, "quantizer")
    placed = _lookup(PLACEMENTS, config.placement, "placement")
    names = [name for name, module in model.named_modules() if placed(name, module)]
    if not names:
        raise ValueError(f"placement {config.placement!r} picks no layer of {type(model).__name__}")
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, QuantConv2d.swap(getattr(owner, child), config, quantizer))
    return names


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Decides signedness and first steps of all activation quantizers from several batches (N, 3, H, W) in [0, 1]."""
    layers = quantized_layers(model)
    for layer in layers.values():
        layer.observing = True
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for layer in layers.values():
        layer.observing = False
        layer.act_quantizer.finish_calibration()


def quantized_layers(model: nn.Module) -> dict[str, QuantConv2d]:
    """The quantized layers by name, in the order of the network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantConv2d)}


def _lookup(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"got {what} {name!r}, wanted one of {', '.join(table)}")
    return table[name]
