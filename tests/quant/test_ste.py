import doctest
import math

import pytest
import torch
from torch import Tensor

from quantsr.quant import ste

TEMPERATURES = [0.0, 1.0, 2.0, 4.0]

# Slope at the rounding threshold and on a level, as the method's table states them.
TABLE = {0.0: (1.0, 1.0), 1.0: (1.082, 0.851), 2.0: (1.313, 0.551), 4.0: (2.075, 0.147)}


def test_the_example_runs() -> None:
    result = doctest.testmod(ste, extraglobs={"torch": torch})
    assert result.attempted and not result.failed


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_mean_slope_over_a_cell_is_one(temperature: float) -> None:
    middles = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    for cell in (-3, 0, 5):
        assert float(ste.staircase_slope(cell + middles, temperature).mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_slope_at_threshold_and_level(temperature: float) -> None:
    v = torch.tensor([-1.5, 0.5, 2.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    threshold, level = TABLE[temperature]
    assert ste.staircase_slope(v, temperature).tolist() == pytest.approx([threshold] * 3 + [level] * 3, abs=5e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES[1:])
def test_the_slope_is_that_of_the_smooth_staircase(temperature: float) -> None:
    v = torch.linspace(-2.95, 3.04, 500, dtype=torch.float64)
    step = 1e-5
    v = v[(v - v.round()).abs() > 2 * step]
    slope = (_staircase(v + step, temperature) - _staircase(v - step, temperature)) / (2 * step)
    torch.testing.assert_close(ste.staircase_slope(v, temperature), slope, rtol=1e-7, atol=1e-7)


def _staircase(v: Tensor, temperature: float) -> Tensor:
    wave = torch.tanh(temperature * (v - v.floor() - 0.5))
    return v.floor() + 0.5 + wave / (2 * math.tanh(temperature / 2))


def test_rounding_is_half_to_even_and_straight_through() -> None:
    v = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -1.2], requires_grad=True)
    rounded = ste.round_ste(v)
    assert rounded.tolist() == [-2, -2, 0, 0, 2, 2, 0, -1]
    incoming = torch.arange(8.0)
    rounded.backward(incoming)
    assert torch.equal(v.grad, incoming)


def test_scale_grad_only_touches_the_gradient() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = ste.scale_grad(x, 0.25)
    y.backward(torch.tensor([4.0, 8.0]))
    assert y.tolist() == [1, -2] and x.grad.tolist() == [1, 2]
