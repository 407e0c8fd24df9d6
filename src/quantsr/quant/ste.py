"""Straight-through functions.

>>> v = torch.tensor([0.5, 1.5, -0.2], requires_grad=True)
>>> soft_round(v, temperature=0.0).sum().backward()
>>> v.grad
tensor([1., 1., 1.])
"""

import math
from typing import Any

import torch
from torch import Tensor


def staircase_slope(v: Tensor, temperature: float) -> Tensor:
    """Slope of RLQ's smooth staircase at v: 1 on average over each cell, largest at the rounding threshold.

    With f = v - floor(v): phi'(f) = T * (1 - tanh^2(T*(f - 1/2))) / (2 * tanh(T/2)); T = 0 gives 1 everywhere.
    """
    if temperature == 0:
        return torch.ones_like(v)
    wave = torch.tanh(temperature * (v - torch.floor(v) - 0.5))
    return (temperature / (2 * math.tanh(temperature / 2))) * (1 - wave * wave)


class _SoftRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.temperature = temperature
        return torch.round(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grad * staircase_slope(v, ctx.temperature), None


def soft_round(v: Tensor, temperature: float) -> Tensor:
    """Forward: round half to even. Backward: times `staircase_slope(v)`. Any shape."""
    return _SoftRound.apply(v, temperature)


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
