"""RLQ: the redistribution-driven learnable quantizer.

Paper: Qin et al., "QuantSR: Accurate Low-bit Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
With u = (x + shift) / scale (weights: no shift), v = clamp(u, qmin, qmax):

    forward    code = round(v),  x_hat = scale * code              the shift is not subtracted again
    backward   d x_hat / d x = d x_hat / d shift = phi'(v) inside [qmin, qmax], 0 outside
               d x_hat / d scale = round(v) - phi'(v) * v inside, qmin or qmax outside, times g

phi' is the slope of a smooth staircase with temperature T (`ste.staircase_slope`), g = 1 / sqrt(numel * qmax) the
gradient scale of LSQ (Esser et al., ICLR 2020), numel the values that share the step, counting the batch. T = 0 without
shift is LSQ.
Differs from the released code: signedness and first activation steps come from calibration over several batches through
the float network, not from the first batch through the quantized one. Steps and shifts learn at the rate of the weights
there; see optim.quantizer_rate and optim.shift_rate.
Options beyond it: a step per output channel of a weight, one shift per tensor for inputs and for weights, first steps
from a percentile, first steps and shifts of the least squared error (`least_error`), and a mid-rise grid of weights:
with v = clamp(w / scale - 1/2, qmin, qmax)

    forward    w_hat = scale * (round(v) + 1/2)                    2^bits levels in pairs of both signs, none of them 0
    backward   as above; d w_hat / d scale = round(v) + 1/2 - phi'(v) * w / scale inside, qmin + 1/2 or qmax + 1/2
               outside, times g
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantsr.quant.config import MIN_SCALE, QParams, QuantConfig, code_range
from quantsr.quant.least_error import fit_step_and_shifts, fit_steps
from quantsr.quant.observed import Observed
from quantsr.quant.quantizer import Quantizer
from quantsr.quant.ste import scale_grad, staircase_slope

PERCENTILE = 99  # of |x|, which the largest code then stands for
MID_RISE_START = {2: 1.25, 3: 0.73, 4: 0.42}  # step / mean|w| of the least squared error for a normal distribution


class RLQ(Quantizer):
    """Quantizer of a weight (always signed) or of a layer's input.

    temperature: T; None for a quantizer without one, that is with plain straight-through (T = 0).
    shift_channels: channels C if a learnable shift per channel is wanted, 1 for a shift of the whole tensor; axis 1 of
    x counts channels. step_channels: output channels O if each is to have its step; axis 0 of a weight counts them.
    mid_rise: levels halfway between those of the codes. range_init: as in QuantConfig.
    """

    def __init__(
        self,
        bits: int,
        *,
        temperature: float | None = 1.0,
        shift_channels: int | None = None,
        step_channels: int | None = None,
        mid_rise: bool = False,
        range_init: str = "lsq",
    ) -> None:
        super().__init__(bits)
        self.temperature, self.mid_rise, self.range_init = temperature, mid_rise, range_init
        self.scale = nn.Parameter(torch.ones(() if step_channels is None else (step_channels,)))
        self.shift = None if shift_channels is None else nn.Parameter(torch.zeros(shift_channels))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        super().observe(self._shifted(x.float()))

    def set_range(self, observed: Observed) -> None:
        if self.range_init == "least_error":
            self._fit(observed.values)
        elif self.range_init == "percentile":
            self.scale.fill_(observed.percentile(PERCENTILE, magnitude=True) / self._qmax)
        else:
            self.scale.fill_(2 * observed.mean_magnitude / math.sqrt(self._qmax))
        self.keep_valid()

    @torch.no_grad()
    def _fit(self, values: Tensor) -> None:
        """Step and shift from values (C, n)."""
        values = values.to(self.scale.device)
        limits = code_range(self.bits, self.signed)
        if self.shift is not None and self.bias_follows:
            scale, shift = fit_step_and_shifts(values.reshape(self.shift.numel(), -1), *limits)
            self.scale.copy_(scale)
            self.shift.copy_(shift)
        else:
            self.scale.copy_(fit_steps(values.view(1, -1), *limits)[0])
        pixels = values.T  # (n, C)
        self.means = values.mean(1), _values(pixels, self.scale, self._shift_of(pixels), self._grid).mean(0)

    @torch.no_grad()
    def init_from(self, weight: Tensor) -> None:
        rows = weight.abs().reshape(self.scale.numel(), -1)  # a step each
        if self.range_init == "percentile":
            scale = torch.quantile(rows, PERCENTILE / 100, dim=1) / self._qmax
        elif self.range_init == "least_error":
            scale = fit_steps(weight.reshape(rows.shape), *code_range(self.bits, True), self._grid.half)
        elif self.mid_rise:
            scale = MID_RISE_START[self.bits] * rows.mean(1).double()
        else:
            scale = 2 * rows.mean(1).double() / math.sqrt(self._qmax)
        self._start(scale.view_as(self.scale))

    @torch.no_grad()
    def restore(self, params: QParams) -> None:
        self.signed = params.qmin < 0
        self._start(params.scale * params.step)
        if self.shift is not None and params.shift is not None:
            self.shift.copy_(params.shift)

    def _start(self, scale: Tensor) -> None:
        self.scale.copy_(scale.clamp(min=MIN_SCALE).expand_as(self.scale))
        self.calibrated = True

    def fake_quant(self, x: Tensor) -> Tensor:
        sharing = x.numel() * self.processes // self.scale.numel()
        scale = self._per_value(scale_grad(self.scale, 1 / math.sqrt(sharing * self._qmax)), x)
        faked: Tensor = _FakeQuant.apply(x, scale, self._shift_of(x), self._grid)
        return faked

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        shift = None if self.shift is None else self.shift.double()
        step = 2 if self.mid_rise else 1  # odd multiples of half the scale
        qmin, qmax = (step * code + step - 1 for code in code_range(self.bits, self.signed))
        params = QParams(self.bits, qmin, qmax, self.scale.double() / step, shift, step)
        levels = _levels(x, self._per_value(self.scale, x), self._shift_of(x), self._grid)
        return (levels * step).to(torch.int8), params

    @torch.no_grad()
    def keep_valid(self) -> None:
        self.scale.clamp_(min=MIN_SCALE)  # a step of 0 or less would leave a dead layer without gradient

    @property
    def _grid(self) -> "Grid":
        qmin, qmax = code_range(self.bits, self.signed)
        return Grid(float(qmin), float(qmax), 0.5 if self.mid_rise else 0.0, float(self.temperature or 0.0))

    def _shifted(self, x: Tensor) -> Tensor:
        shift = self._shift_of(x)
        return x if shift is None else x + shift

    def _shift_of(self, x: Tensor) -> Tensor | None:
        return None if self.shift is None else self.shift.view(1, -1, *[1] * (x.dim() - 2))

    def _per_value(self, scale: Tensor, x: Tensor) -> Tensor:
        return scale if scale.dim() == 0 else scale.view(-1, *[1] * (x.dim() - 1))

    @property
    def _qmax(self) -> int:
        return code_range(self.bits, self.signed)[1]


class Grid(NamedTuple):
    """Levels qmin + half .. qmax + half, in steps of 1, and the temperature of the backward staircase."""

    qmin: float
    qmax: float
    half: float
    temperature: float


def _levels(x: Tensor, scale: Tensor, shift: Tensor | None, grid: Grid) -> Tensor:
    return torch.round(_clamped(x, scale, shift, grid)[1]) + grid.half


def _clamped(x: Tensor, scale: Tensor, shift: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
    """u and v."""
    u = (x if shift is None else x + shift) / scale - grid.half
    return u, torch.clamp(u, grid.qmin, grid.qmax)


def _values(x: Tensor, scale: Tensor, shift: Tensor | None, grid: Grid) -> Tensor:
    """x_hat."""
    return _levels(x, scale, shift, grid) * scale


def _gradients(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor | None, grid: Grid
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of x, scale and shift, from that of x_hat."""
    u, v = _clamped(x, scale, shift, grid)
    slope = torch.where(u == v, staircase_slope(v, grid.temperature), 0.0)
    to_x = grad * slope
    to_scale = (grad * (torch.round(v) + grid.half - slope * (v + grid.half))).sum_to_size(scale.shape)
    return to_x, to_scale, None if shift is None else to_x.sum_to_size(shift.shape)


class _FakeQuant(torch.autograd.Function):
    """`_values` with `_gradients`: between the two only the arguments are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor | None, grid: Grid) -> Tensor:
        ctx.save_for_backward(x, scale, shift)
        ctx.grid = grid
        return _values(x, scale, shift, grid)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift = ctx.saved_tensors
        return *_gradients(grad, x, scale, shift, ctx.grid), None


def weight(config: QuantConfig, channels: int) -> RLQ:
    """RLQ of a weight (O, I, K, K) or (O, I); channels: O."""
    return RLQ(
        config.weight_bits,
        temperature=config.temperature,
        shift_channels=1 if config.weight_shift else None,
        step_channels=channels if config.weight_granularity == "per_channel" else None,
        mid_rise=config.weight_grid == "mid_rise",
        range_init=config.range_init,
    )


def act(config: QuantConfig, channels: int) -> RLQ:
    """RLQ of an activation (N, C, ...); channels: C."""
    shifts = {"per_channel": channels, "per_tensor": 1, "none": None}
    return RLQ(
        config.act_bits,
        temperature=config.temperature,
        shift_channels=shifts[config.act_shift],
        range_init=config.range_init,
    )
