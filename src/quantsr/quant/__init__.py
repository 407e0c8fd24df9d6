"""Low-bit quantizers and the layers that use them."""

from quantsr.quant.config import QParams, QuantConfig
from quantsr.quant.convert import PLACEMENTS, QUANTIZERS, calibrate, quantize, quantized_layers
from quantsr.quant.layers import QuantConv2d
from quantsr.quant.rlq import RLQ

__all__ = [
    "PLACEMENTS",
    "QUANTIZERS",
    "RLQ",
    "QParams",
    "QuantConfig",
    "QuantConv2d",
    "calibrate",
    "quantize",
    "quantized_layers",
]  # fmt: skip
