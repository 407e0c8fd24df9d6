"""Straight-through functions.

>>> v = torch.tensor([0.5, 1.5, -0.2], requires_grad=True)
>>> round_ste(v).sum().backward()
>>> v.grad
tensor([1., 1., 1.])
"""

import math
from typing import Any

import torch
from torch import Tensor


def staircase_slope(v: Tensor, temperature: float) -> Tensor:
    """Slope of RLQ's smooth staircase at v: 1 on average over each cell, largest at the rounding threshold.

    With f = v - floor(v): phi'(f) = T * (1 - tanh^2(T*(f - 1/2))) / (2 * tanh(T/2)); T = 0 gives 1 everywhere. Here
    1 - tanh^2(a) = 4 * r * (1 - r) with r the logistic function of 2a, which is cheaper.
    """
    if temperature == 0:
        return torch.ones_like(v)
    rise = torch.sigmoid((2 * temperature) * (v - torch.floor(v) - 0.5))
    return (2 * temperature / math.tanh(temperature / 2)) * (rise * (1 - rise))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return torch.round(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def round_ste(v: Tensor) -> Tensor:
    """Forward: round half to even. Backward: 1 (straight-through). Any shape."""
    rounded: Tensor = _Round.apply(v)
    return rounded


class _ScaleGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_grad(x: Tensor, factor: float) -> Tensor:
    """Forward: x. Backward: times `factor` (LSQ's gradient scale). Any shape."""
    return _ScaleGrad.apply(x, factor)


def unit_round(r: Tensor, bits: int) -> Tensor:
    """DoReFa's Q_k: r in [0, 1] to the nearest of 2^bits levels from 0 to 1. Backward: 1. Any shape."""
    n = 2**bits - 1
    return round_ste(r * n) / n


def clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x within bounds that learn: backward, 1 to x inside, and 1 to the bound that a value reached or passed."""
    return torch.where(x >= high, high, torch.where(x <= low, low, x))


def with_value(y: Tensor, value: Tensor) -> Tensor:
    """Forward: value, exactly. Backward: 1 to y, nothing to value (straight-through)."""
    return _WithValue.apply(y, value.detach())


class _WithValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
