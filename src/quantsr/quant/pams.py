"""PAMS: a learned symmetric bound of activations; weights between plus and minus their largest magnitude.

Paper: Li et al., "PAMS: Quantized Super-Resolution via Parameterized Max Scale", ECCV 2020 (arXiv 2011.04212); code
colorjam/PAMS, `model/quant_ops.py`. With n = 2^(b-1) - 1, so 2^b - 1 levels, signed or not:

    input      x_hat = (bound / n) * round(clip(x, -bound, bound) * n / bound)
               d x_hat / d x = 1 inside, 0 outside;  d x_hat / d bound = (x_hat - x) / bound inside, -1 or 1 outside
    weight     w_hat = (m / n) * round(w * n / m),  m = max|w| held constant;  d w_hat / d w = 1

Differs from the code: bound starts at the mean over the calibration images of max|x|, where the code takes that of the
last batch of the first epoch (the running mean that it means to keep needs more than one epoch, and one is its
default). Its bounds learn at a hundred times the rate of the weights, with images on 0..255, so in units of [0, 1] at
0.4 times. Not of the quantizer and left out: the distance to the attention maps of a full-precision teacher (weight
1000 in the loss). The places where PAMS quantizes are the placement "pams".
"""

import torch
from torch import Tensor, nn

from quantsr.quant.config import MIN_SCALE, QParams, QuantConfig
from quantsr.quant.observed import Observed
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import clip, round_ste


class PAMSWeight(Quantizer):
    """Levels -m .. m of n steps to each side, m = max|w|; nothing is learned."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.weight_bits)

    def fake_quant(self, x: Tensor) -> Tensor:
        step = self._step(x)
        return round_ste(x / step) * step

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        n = _levels(self.bits)
        step = self._step(x)
        return torch.round(x / step).to(torch.int8), QParams(self.bits, -n, n, step.double())

    @torch.no_grad()
    def restore(self, params: QParams) -> None:
        self.calibrated = True  # the largest weight of a tensor has the largest code

    def _step(self, x: Tensor) -> Tensor:
        return (x.detach().abs().max() + MIN_SCALE) / _levels(self.bits)


class PAMSInput(Quantizer):
    """Levels -bound .. bound of n steps to each side; the bound () is learned."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.act_bits)
        self.bound = nn.Parameter(torch.ones(()))

    def set_range(self, observed: Observed) -> None:
        self.bound.fill_(max(observed.mean_peak, MIN_SCALE))

    def fake_quant(self, x: Tensor) -> Tensor:
        step = self.bound / _levels(self.bits)
        return round_ste(clip(x, -self.bound, self.bound) / step) * step

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        n = _levels(self.bits)
        step = self.bound / n
        codes = torch.round(clip(x, -self.bound, self.bound) / step)
        return codes.to(torch.int8), QParams(self.bits, -n, n, step.double())

    @torch.no_grad()
    def restore(self, params: QParams) -> None:
        self.bound.copy_(params.scale * params.qmax)
        self.calibrated = True

    @torch.no_grad()
    def keep_valid(self) -> None:
        self.bound.clamp_(min=MIN_SCALE)


def _levels(bits: int) -> int:
    """n: levels on each side of zero."""
    return int(2 ** (bits - 1)) - 1
