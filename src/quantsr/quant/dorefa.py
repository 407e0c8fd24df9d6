"""DoReFa: quantization with a fixed range, through tanh for weights.

Paper: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016
(arXiv 1606.06160). With Q_k(r) = round((2^b - 1) * r) / (2^b - 1) for r in [0, 1], straight-through:

    weight     t = tanh(w),  w_hat = 2 * Q_k(t / (2 * max|t|) + 1/2) - 1
    input      a_hat = Q_k(clip(a, 0, 1))

Nothing of it is learned. Differs from the paper, which is about classification with batch norm:
- gradients are not quantized.
- max|t| is held constant; in tensorpack's code, `examples/DoReFa-Net/dorefa.py`, the gradient passes through it.
- w_hat times max|w| (held constant): otherwise the weights of a pretrained network would change their size.
- inputs are clipped to bound, the largest |x| of calibration, not to 1: a_hat = bound * Q_k(clip(a / bound, 0, 1)).
- a signed input is clipped to -bound .. bound: a_hat = bound * (2 * Q_k(clip(a / (2 * bound) + 1/2, 0, 1)) - 1).
How other works on super-resolution adapted DoReFa is not published.

The levels of weights and of signed inputs are odd multiples of half a step: none is zero, so they have no codes in the
packed format, whose padding is code 0.
"""

import torch
from torch import Tensor

from quantsr.quant.config import MIN_SCALE, NotPackable, QParams, QuantConfig, code_range
from quantsr.quant.observed import Observed
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import unit_round


class DoReFaWeight(Quantizer):
    """2^bits levels from -max|w| to max|w|, spaced evenly; a weight reaches them through tanh."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.weight_bits)

    def fake_quant(self, x: Tensor) -> Tensor:
        t = torch.tanh(x)
        largest = t.detach().abs().max().clamp(min=MIN_SCALE)
        unit = (t / (2 * largest) + 0.5).clamp(0, 1)  # clamp: float rounding may leave the interval
        return x.detach().abs().max() * (2 * unit_round(unit, self.bits) - 1)

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("DoReFa weights have no codes: zero is not one of their levels")


class DoReFaInput(Quantizer):
    """2^bits levels from 0, or from -bound if signed, to bound; bound is a buffer ()."""

    bound: Tensor

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.act_bits)
        self.register_buffer("bound", torch.ones(()))

    def set_range(self, observed: Observed) -> None:
        self.bound.fill_(max(observed.peak, MIN_SCALE))

    def fake_quant(self, x: Tensor) -> Tensor:
        if self.signed:
            unit = (x / (2 * self.bound) + 0.5).clamp(0, 1)
            return self.bound * (2 * unit_round(unit, self.bits) - 1)
        return self.bound * unit_round((x / self.bound).clamp(0, 1), self.bits)

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        return unsigned_codes(self, x, self.bound, "DoReFa")


def unsigned_codes(quantizer: Quantizer, x: Tensor, bound: Tensor, name: str) -> tuple[Tensor, QParams]:
    """Codes 0 .. 2^bits - 1 of levels from 0 to bound; raises NotPackable for a signed quantizer."""
    if quantizer.signed:
        raise NotPackable(f"{name} codes of a signed input do not exist: zero is not one of its levels")
    qmin, qmax = code_range(quantizer.bits, False)
    codes = torch.round((x / bound).clamp(0, 1) * qmax)
    return codes.to(torch.int8), QParams(quantizer.bits, qmin, qmax, bound.double() / qmax)
