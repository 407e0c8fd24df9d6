"""Quantizing a float network: swap what a placement picks, then calibrate on data; and what training then needs."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from quantsr.quant import lsq, rlq
from quantsr.quant.config import QuantConfig
from quantsr.quant.daq import DAQInput, DAQWeight
from quantsr.quant.ddtb import DDTBInput, DDTBWeight
from quantsr.quant.dorefa import DoReFaInput, DoReFaWeight
from quantsr.quant.layers import QuantConv2d, QuantLayer, QuantLinear, keep_mean, response
from quantsr.quant.odm import ODMInput, ODMWeight
from quantsr.quant.pact import PACTInput
from quantsr.quant.pams import PAMSInput, PAMSWeight
from quantsr.quant.placements import PLACEMENTS, Placement
from quantsr.quant.quantizer import Method, Quantizer, Raw

RLQ_OPTIONS = ("temperature", "weight_granularity", "act_shift", "weight_shift", "weight_grid", "range_init")

QUANTIZERS: dict[str, Method] = {
    "rlq": Method(rlq.weight, rlq.act, RLQ_OPTIONS),
    "lsq": Method(lsq.weight, lsq.act, ("weight_granularity", "range_init")),
    "dorefa": Method(DoReFaWeight, DoReFaInput),
    "pact": Method(DoReFaWeight, PACTInput),
    "pams": Method(PAMSWeight, PAMSInput),
    "daq": Method(DAQWeight, DAQInput),
    "ddtb": Method(DDTBWeight, DDTBInput),
    "odm": Method(ODMWeight, ODMInput),
}


def quantize(model: nn.Module, config: QuantConfig) -> list[str]:
    """Swaps what the config's placement picks, in place. Returns the names of the swapped modules.

    Raises ValueError for an unknown quantizer or placement, for an option that the quantizer does not have, or if
    nothing is picked.
    """
    method: Method = _lookup(QUANTIZERS, config.quantizer, "quantizer")
    placement: Placement = _lookup(PLACEMENTS, config.placement, "placement")
    _check_options(config, method)
    names = [name for name, module in model.named_modules() if placement.picks(name, module)]
    if not names:
        raise ValueError(f"placement {config.placement!r} picks no layer of {type(model).__name__}")
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, placement.swap(getattr(owner, child), config, method))
    return names


def describe_placement(name: str) -> str:
    """What a placement quantizes, in words. Raises ValueError for an unknown name."""
    return str(_lookup(PLACEMENTS, name, "placement").words)


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Decides signedness and first values of the activation quantizers that have none yet.

    batches: several (N, 3, H, W) in [0, 1]; none is drawn where nothing waits.
    """
    waiting = {q for name, q in _quantizers(model) if not (name.endswith("weight_quantizer") or q.calibrated)}
    if all(isinstance(quantizer, Raw) for quantizer in waiting):
        return
    for quantizer in waiting:
        quantizer.observing = True
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:  # else a network whose batches fail would run in float from then on
        for quantizer in waiting:
            quantizer.observing = False
    for quantizer in waiting:
        quantizer.finish_calibration()
    for layer in quantized_layers(model).values():
        if layer.act_quantizer in waiting:
            keep_mean(layer)


def quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """The quantized layers, those with weights, by name, in the order of the network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantConv2d | QuantLinear)}


def without_shifts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network as a float network takes it over: what shifts add is in the weights and biases.

    tensors: the state of a quantized network, or of a float one, which comes back as it is; float32 or float16.
    """
    moved = dict(tensors)
    for layer, shift in _shifts(tensors, "weight_quantizer"):
        moved[f"{layer}.weight"] = tensors[f"{layer}.weight"].float() + shift
    for layer, shift in _shifts(tensors, "act_quantizer"):
        weight, bias = (moved[f"{layer}.{part}"].float() for part in ("weight", "bias"))
        moved[f"{layer}.bias"] = bias + response(weight, shift)
    return moved


def _shifts(tensors: dict[str, Tensor], quantizer: str) -> Iterator[tuple[str, Tensor]]:
    """Layers and shifts, float32."""
    end = f".{quantizer}.shift"
    return ((name.removesuffix(end), shift.float()) for name, shift in tensors.items() if name.endswith(end))


def keep_valid(model: nn.Module) -> None:
    """To be called after every optimiser step: brings back learned steps and bounds that left their domain."""
    for _, quantizer in _quantizers(model):
        quantizer.keep_valid()


def penalty(model: nn.Module) -> Tensor | float:
    """What the method adds to the loss of a training pass just made: the sum over all quantizers; 0.0 for most."""
    return sum((quantizer.penalty() for _, quantizer in _quantizers(model)), 0.0)


def mismatch(model: nn.Module) -> Tensor | float:
    """What ODM lowers, beside the loss of a training pass just made, as far as the two agree; 0.0 for all others."""
    return sum((quantizer.mismatch() for _, quantizer in _quantizers(model)), 0.0)


def has_mismatch(model: nn.Module) -> bool:
    """Whether `mismatch` will be a tensor after a training pass."""
    return any(type(quantizer).mismatch is not Quantizer.mismatch for _, quantizer in _quantizers(model))


def set_temperature(model: nn.Module, temperature: float) -> None:
    """Sets the temperature of all quantizers that have one; a float network has none to set.

    Raises ValueError if it is below 0, or if the network is quantized and none of its quantizers has one.
    """
    QuantConfig(temperature=temperature)  # for its check
    quantizers = [quantizer for _, quantizer in _quantizers(model)]
    staircases = [quantizer for quantizer in quantizers if quantizer.temperature is not None]
    if quantizers and not staircases:
        raise ValueError(f"got temperature {temperature}, wanted none: only RLQ has a backward staircase")
    for quantizer in staircases:
        quantizer.temperature = temperature


def set_processes(model: nn.Module, count: int) -> None:
    """Tells activation quantizers how many processes share a batch."""
    for name, quantizer in _quantizers(model):
        if not name.endswith("weight_quantizer"):
            quantizer.processes = count


def _quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantizer))


def _check_options(config: QuantConfig, method: Method) -> None:
    common = ("weight_bits", "act_bits", "quantizer", "placement", *method.options)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in common and value != field.default:
            known = ", ".join(method.options) or "none"
            raise ValueError(
                f"got {field.name} {value!r} for quantizer {config.quantizer!r}, wanted {field.default!r}, the "
                f"default: its options are {known}"
            )


def _lookup(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"got {what} {name!r}, wanted one of {', '.join(table)}")
    return table[name]
