"""Low-bit quantizers and the layers that use them."""

from quantsr.quant.config import NotPackable, QParams, QuantConfig
from quantsr.quant.convert import (
    QUANTIZERS,
    calibrate,
    describe_placement,
    has_mismatch,
    keep_valid,
    mismatch,
    penalty,
    quantize,
    quantized_layers,
    set_processes,
    set_temperature,
    without_shifts,
)
from quantsr.quant.layers import QuantBlock, QuantConv2d, QuantLayer, QuantLinear, QuantProduct
from quantsr.quant.placements import PLACEMENTS
from quantsr.quant.quantizer import Method, Quantizer
from quantsr.quant.rlq import RLQ

__all__ = [
    "PLACEMENTS",
    "QUANTIZERS",
    "RLQ",
    "Method",
    "NotPackable",
    "QParams",
    "QuantBlock",
    "QuantConfig",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "QuantProduct",
    "Quantizer",
    "calibrate",
    "describe_placement",
    "has_mismatch",
    "keep_valid",
    "mismatch",
    "penalty",
    "quantize",
    "quantized_layers",
    "set_processes",
    "set_temperature",
    "without_shifts",
]  # fmt: skip
