"""PACT: a learned upper bound of activations; weights by DoReFa.

Paper: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018 (arXiv 1805.06085).

    forward    y = clip(x, 0, bound),  y_hat = bound * Q_k(y / bound)        Q_k: ste.unit_round
    backward   d y_hat / d x = 1 for 0 < x < bound, else 0;  d y_hat / d bound = 1 for x >= bound, else 0
    loss       + DECAY * bound^2

As in the paper the rounding is dropped from the bound's gradient. Weights: dorefa.py, as in the paper's experiments.
Differs from the paper: bound starts at the largest |x| of calibration, not at a large constant; a signed input is
clipped to -bound .. bound, with 2^b levels between and d y_hat / d bound = sign(x) outside; the paper decays the bound
as strongly as the weights, super-resolution decays no weights, so DECAY is our choice.
"""

import torch
from torch import Tensor, nn

from quantsr.quant.config import MIN_SCALE, QParams, QuantConfig
from quantsr.quant.dorefa import unsigned_codes
from quantsr.quant.observed import Observed
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import clip, unit_round, with_value

DECAY = 1e-4  # of the penalty on each bound


class PACTInput(Quantizer):
    """2^bits levels from 0, or from -bound if signed, to the learned bound ()."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.act_bits)
        self.bound = nn.Parameter(torch.ones(()))

    def set_range(self, observed: Observed) -> None:
        self.bound.fill_(max(observed.peak, MIN_SCALE))

    def fake_quant(self, x: Tensor) -> Tensor:
        low = -self.bound if self.signed else torch.zeros_like(self.bound)
        y = clip(x, low, self.bound)
        return with_value(y, low + (self.bound - low) * unit_round((y - low) / (self.bound - low), self.bits))

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        return unsigned_codes(self, x, self.bound, "PACT")

    @torch.no_grad()
    def keep_valid(self) -> None:
        self.bound.clamp_(min=MIN_SCALE)

    def penalty(self) -> Tensor:
        return DECAY * self.bound.square()
