"""Two learned bounds of an activation, as DDTB and ODM have them: from percentiles of calibration, never crossed."""

import torch
from torch import Tensor, nn

from quantsr.quant.config import MIN_SCALE, QuantConfig
from quantsr.quant.observed import Observed
from quantsr.quant.quantizer import Quantizer

PERCENTILES = (1, 99)


class BoundedInput(Quantizer):
    """Quantizer of a layer's input with learned bounds low () and high ()."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.act_bits)
        self.low = nn.Parameter(torch.zeros(()))
        self.high = nn.Parameter(torch.ones(()))

    def set_range(self, observed: Observed) -> None:
        for bound, percent in zip((self.low, self.high), PERCENTILES, strict=True):
            bound.fill_(observed.percentile(percent))
        self.keep_valid()

    @torch.no_grad()
    def keep_valid(self) -> None:
        self.high.copy_(torch.maximum(self.high, self.low + smallest_width(self.low)))


def smallest_width(low: Tensor) -> Tensor:
    """Distance of bounds that float32 can tell apart around `low`."""
    return (low.abs() * 1e-4).clamp(min=MIN_SCALE)
