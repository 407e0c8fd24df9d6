"""RLQ: the redistribution-driven learnable quantizer.

Paper: Qin et al., "QuantSR: Accurate Low-bit Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
With u = (x + shift) / scale (weights: no shift), v = clamp(u, qmin, qmax):

    forward    code = round(v),  x_hat = scale * code              the shift is not subtracted again
    backward   d x_hat / d x = d x_hat / d shift = phi'(v) inside [qmin, qmax], 0 outside
               d x_hat / d scale = round(v) - phi'(v) * v inside, qmin or qmax outside, times g

phi' is the slope of a smooth staircase with temperature T (`ste.staircase_slope`), g = 1 / sqrt(numel * qmax) the
gradient scale of LSQ (Esser et al., ICLR 2020), numel counting the batch. T = 0 without shift is LSQ.
Differs from the released code: signedness comes from calibration over several batches, not from the first batch.
"""

import math

import torch
from torch import Tensor, nn

from quantsr.quant.config import MIN_SCALE, QParams, code_range
from quantsr.quant.ste import scale_grad, soft_round

SIGNED_BELOW = -1e-5  # an activation that never goes below this is stored unsigned


class RLQ(nn.Module):
    """Quantizer of one tensor: of a weight (always signed, no shift) or of a layer's input (with shift).

    shift_channels: input channels C if a learnable shift per channel is wanted; axis 1 of x counts them.
    An activation quantizer must see `observe` and `finish_calibration` before it runs; a weight quantizer is
    initialised by `init_from`.
    """

    def __init__(self, bits: int, *, temperature: float = 1.0, shift_channels: int | None = None) -> None:
        super().__init__()
        code_range(bits, True)
        self.bits, self.temperature = bits, temperature
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = None if shift_channels is None else nn.Parameter(torch.zeros(shift_channels))
        self.signed = True
        self.calibrated = False
        self._seen: list[tuple[float, float, int]] = []  # min, sum of magnitudes, count of each observed batch

    # A tensor, so that it travels in safetensors with the rest of the state.
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.calibrated, self.signed], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.calibrated, self.signed = (bool(flag) for flag in state.tolist())

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Collects calibration statistics of an input batch (N, C, ...)."""
        x = self._shifted(x.float())
        self._seen.append((float(x.min()), float(x.abs().sum()), x.numel()))

    @torch.no_grad()
    def finish_calibration(self) -> None:
        """Decides signedness and the first step from everything observed (LSQ's rule: 2 * mean|x| / sqrt(qmax))."""
        if not self._seen:
            raise RuntimeError("calibration saw no batch: run the network on some patches while it observes")
        self.signed = min(low for low, _, _ in self._seen) < SIGNED_BELOW
        mean = sum(total for _, total, _ in self._seen) / sum(count for _, _, count in self._seen)
        self._set_scale(mean)
        self._seen.clear()

    @torch.no_grad()
    def init_from(self, weight: Tensor) -> None:
        """First step of a weight quantizer: 2 * mean|w| / sqrt(qmax)."""
        self._set_scale(float(weight.abs().mean()))

    def _set_scale(self, mean_magnitude: float) -> None:
        qmax = code_range(self.bits, self.signed)[1]
        self.scale.fill_(max(2 * mean_magnitude / math.sqrt(qmax), MIN_SCALE))
        self.calibrated = True

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantized x in float32 (float64 for float64 input), same shape."""
        qmax = code_range(self.bits, self.signed)[1]
        scale = scale_grad(self.scale, 1 / math.sqrt(x.numel() * qmax))
        return self._codes(x, scale) * scale

    @torch.no_grad()
    def codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        """Integer codes of x (int8, same shape) and what they stand for."""
        shift = None if self.shift is None else self.shift.double()
        params = QParams(self.bits, self.signed, self.scale.double(), shift)
        return self._codes(x, self.scale).to(torch.int8), params

    def _codes(self, x: Tensor, scale: Tensor) -> Tensor:
        if not self.calibrated:
            raise RuntimeError("got an uncalibrated quantizer: run calibrate() or load a checkpoint first")
        # The clamp and its slope need float32 also under autocast: bf16 has 8 bits, too few to find the cell.
        x = x if x.dtype == torch.float64 else x.float()
        v = torch.clamp(self._shifted(x) / scale, *code_range(self.bits, self.signed))
        return soft_round(v, self.temperature)

    def _shifted(self, x: Tensor) -> Tensor:
        return x if self.shift is None else x + self.shift.view(1, -1, *[1] * (x.dim() - 2))
