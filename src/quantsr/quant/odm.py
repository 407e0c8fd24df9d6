"""ODM: learned bounds of activations, a learned correction of the weight range, features drawn to their levels.

Paper: Hong and Lee, "Overcoming Distribution Mismatch in Quantizing Image Super-Resolution Networks", ECCV 2024 (arXiv
2307.13337). No code is published; the equations are as others report them. With n = 2^b - 1 and s = (u - l) / n:

    q(x)       = l + s * round((clip(x, l, u) - l) / s)
    input      l and u learned, from the 1st and 99th percentile of calibration
    weight     u = gamma * (99th percentile of |w|, held constant), l = -u; gamma is learned, 1 at first
    backward   as in ddtb.py: 1 inside to x; 1 above to u, 1 below to l; (q(x) - y) / (u - l) to u and minus that to l,
               y = clip(x, l, u)
    mismatch   MISMATCH * sum over layers of ||x - q(x)||_2
    step       along g + (cos(g, m) + 1) / 2 * m, g the gradient of the loss and m that of the mismatch: in full where
               the two agree, not at all where they oppose each other (`train.gradients.backward`)

Unknown. Whether the cosine is of whole gradients or taken for each tensor is not reported; here it is of the whole.
Whether q(x) is held constant in the mismatch is not either; here it is, so features are drawn to their nearest level.
Each of p processes takes sqrt(p) times the norm of its share of a batch, whose mean is the norm of the whole where the
shares are alike. Bounds and gamma learn at ten times the rate of the weights there: set optim.quantizer_rate (bounds of
images on 0..255, if those are its units, are 255 times ours). Here the mismatch also reaches gamma and the bounds of
earlier layers; there gamma is said to follow the reconstruction alone. Percentiles are of all calibration batches
together, not a mean over batches.

Zero is no level, neither of weights nor, in general, of inputs, so there are no codes in the packed format.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from quantsr.quant.bounds import PERCENTILES, BoundedInput
from quantsr.quant.config import MIN_SCALE, NotPackable, QParams, QuantConfig
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import clip, round_ste

MISMATCH = 1e-5  # its weight


class ODMWeight(Quantizer):
    """2^bits levels from -u to u; gamma () is learned."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.weight_bits)
        self.gamma = nn.Parameter(torch.ones(()))

    def fake_quant(self, x: Tensor) -> Tensor:
        percentile = torch.quantile(x.detach().abs().flatten(), PERCENTILES[1] / 100).clamp(min=MIN_SCALE)
        high = self.gamma * percentile
        return _from_low(x, -high, high, self.bits)

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("ODM weights have no codes: zero is not one of their levels")

    @torch.no_grad()
    def keep_valid(self) -> None:
        self.gamma.clamp_(min=1e-3)


class ODMInput(BoundedInput):
    """2^bits levels from the learned bound low () to the learned bound high ()."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config, channels)
        self._mismatch: Tensor | None = None  # of the last training pass

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mismatch": None}  # a copy has made no pass

    def fake_quant(self, x: Tensor) -> Tensor:
        quantized = _from_low(x, self.low, self.high, self.bits)
        if self.training and torch.is_grad_enabled():
            self._mismatch = math.sqrt(self.processes) * torch.linalg.vector_norm(x - quantized.detach())
        return quantized

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("ODM inputs have no codes: their levels start at a learned bound, and zero is not one")

    def mismatch(self) -> Tensor | float:
        """Of the last training pass, once."""
        mismatch, self._mismatch = self._mismatch, None
        return 0.0 if mismatch is None else MISMATCH * mismatch


def _from_low(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    step = (high - low) / (2**bits - 1)
    return low + round_ste((clip(x, low, high) - low) / step) * step
