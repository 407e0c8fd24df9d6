"""DDTB in its static form: learned lower and upper bounds of activations, weights between two percentiles.

Paper: Zhong et al., "Dynamic Dual Trainable Bounds for Ultra-low Precision Super-Resolution Networks", ECCV 2022 (arXiv
2203.03844); code zysxmu/DDTB, `model/quant_ops.py`. With n = 2^b - 1, s = (u - l) / n and z = round(l / s):

    forward    x_hat = s * (clamp(round(clip(x, l, u) / s) - z, 0, n) + z)
    backward   d x_hat / d x = 1 inside, 0 outside
               d x_hat / d u = 1 above, d x_hat / d l = 1 below, and everywhere, with y = clip(x, l, u),
               (x_hat - y) / (u - l) to u and minus that to l
    input      l and u learned, from the 1st and 99th percentile of calibration
    weight     l and u are the 1st and 99th percentile of the weight at hand, held constant

Differs from the paper: no gate. There, in some layers, a small 2-bit network looks at each image and multiplies the
bounds by what it finds, so levels depend on the image; here they do not. Differs from the code: percentiles come from
all calibration batches through the float network, not from the first batch, and at every number of bits, where the code
takes them at 2 bits alone and starts at -10 and 10 otherwise; exact halves at the ends cannot add a level to the 2^b.
Left out: the distance to a full-precision teacher in the loss. The code's bounds learn at a hundred times the rate of
the weights, with images on 0..255, so in units of [0, 1] at 0.4 times.
"""

import torch
from torch import Tensor

from quantsr.quant.bounds import PERCENTILES, BoundedInput, smallest_width
from quantsr.quant.config import QParams, QuantConfig
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import clip, round_ste


class DDTBWeight(Quantizer):
    """2^bits levels between two percentiles of the weight; nothing is learned."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.weight_bits)

    def fake_quant(self, x: Tensor) -> Tensor:
        return between(x, *_percentiles(x), self.bits)

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        return codes_between(x, *_percentiles(x), self.bits)


class DDTBInput(BoundedInput):
    """2^bits levels between the learned bounds low () and high (); zero is a level if it lies between them."""

    def fake_quant(self, x: Tensor) -> Tensor:
        return between(x, self.low, self.high, self.bits)

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        return codes_between(x, self.low, self.high, self.bits)


def between(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x on 2^bits multiples of (high - low) / (2^bits - 1) from about low to about high."""
    codes, step = _steps(x, low, high, bits)
    return codes * step


def codes_between(x: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, QParams]:
    codes, step = _steps(x, low, high, bits)
    first = int(torch.round(low / step))
    return codes.to(torch.int8), QParams(bits, first, first + 2**bits - 1, step.double())


def _steps(x: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """x in whole steps, and the step."""
    step = (high - low) / (2**bits - 1)
    first = torch.round(low.detach() / step.detach())
    steps = round_ste(clip(x, low, high) / step)
    surplus = steps.detach() - steps.detach().clamp(first, first + 2**bits - 1)  # of halves at the ends; else 0
    return steps - surplus, step


def _percentiles(x: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.quantile(x.detach().flatten(), x.new_tensor(PERCENTILES) / 100)
    return low, torch.maximum(high, low + smallest_width(low))
