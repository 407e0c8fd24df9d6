"""DAQ: steps from the mean and deviation of each channel of each image, at run time.

Paper: Hong et al., "DAQ: Channel-Wise Distribution-Aware Quantization for Deep Image Super-Resolution Networks", WACV
2022; code Cheeun/DAQ-pytorch, `src/model/quantize.py`. With step = c_b * deviation, per image and channel:

    signed     x_hat = mean + step * clamp(round((x - mean) / step + 1/2) - 1/2, -(2^(b-1) - 1/2), 2^(b-1) - 1/2)
    unsigned   x_hat = step * clamp(round(x / step), 0, 2^b - 1);  the deviation is of the values above 0
    weight     the signed rule for the whole tensor with mean 0
    backward   1 everywhere, nothing to the statistics

Nothing is learned. c_b is the optimal step for a normal distribution at b - 1 bits: so it is in the code.
Differs from the code: unsigned inputs are told by calibration, not by the minimum of the batch at hand; the upper clamp
of unsigned inputs, commented out in the code, is in place, since b bits have 2^b levels; deviations stay in float32
(the code quantizes them to 8 bits). Levels that depend on the image have no static codes: the engine cannot run them.
"""

import torch
from torch import Tensor

from quantsr.quant.config import NotPackable, QParams, QuantConfig
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import with_value

NORMAL_STEPS = {1: 1.596, 2: 0.996, 3: 0.586}  # bits -> optimal uniform step for unit deviation


class DAQWeight(Quantizer):
    """2^bits levels at odd multiples of half a step."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.weight_bits)

    def fake_quant(self, x: Tensor) -> Tensor:
        step = NORMAL_STEPS[self.bits - 1] * x.detach().std()
        return with_value(x, _between_levels(x.detach(), step, self.bits))

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("DAQ weights have no codes: zero is not one of their levels")


class DAQInput(Quantizer):
    """2^bits levels for each channel of each image (N, C, ...), found anew for every image."""

    def __init__(self, config: QuantConfig, channels: int) -> None:
        super().__init__(config.act_bits)

    def fake_quant(self, x: Tensor) -> Tensor:
        value, factor = x.detach(), NORMAL_STEPS[self.bits - 1]
        if self.signed:
            mean = value.mean((2, 3), keepdim=True)
            several = value[0, 0].numel() > 1  # the deviation of a single pixel is 0
            step = factor * value.std((2, 3), keepdim=True, correction=int(several))
            return with_value(x, mean + _between_levels(value - mean, step, self.bits))
        step = factor * _deviation_above_zero(value)
        return with_value(x, step * torch.round(value / _nonzero(step)).clamp(0, 2**self.bits - 1))

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("DAQ inputs have no static codes: their levels are found anew for every image")


def _between_levels(x: Tensor, step: Tensor, bits: int) -> Tensor:
    most = 2 ** (bits - 1) - 0.5
    return step * (torch.round(x / _nonzero(step) + 0.5) - 0.5).clamp(-most, most)


def _deviation_above_zero(x: Tensor) -> Tensor:
    count = (x > 0).sum((2, 3), keepdim=True) + 1  # + 1 as in the code: a channel may be all zero
    mean = x.sum((2, 3), keepdim=True) / count
    return (x.square().sum((2, 3), keepdim=True) / count - mean.square()).clamp(min=0).sqrt()


def _nonzero(step: Tensor) -> Tensor:
    """A constant channel has step 0 and only its mean as a level."""
    return torch.where(step > 0, step, torch.ones_like(step))
