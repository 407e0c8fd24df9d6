"""First step and shifts of a quantizer: those of the least squared error over values it saw.

Two moves in turn, neither of which raises the error: the codes of the present step and shifts, then the step and the
shifts that fit these codes best (Lloyd's algorithm with levels that stay equally far apart). That ends at a local
optimum, so several starts are tried.
"""

import torch
from torch import Tensor

from quantsr.quant.config import MIN_SCALE

WIDTHS = (2.5, 4.0, 6.0)  # starts: from the lowest level to the highest, in standard deviations
POSITIONS = (0.25, 0.5)  # starts: where the mean lies between them
ROUNDS = 50
VALUES = 2**17  # that are looked at


def fit_steps(rows: Tensor, qmin: int, qmax: int, half: float = 0.0) -> Tensor:
    """A step (R,) for each row of (R, n), float32; levels are (code + half) * step, code = qmin .. qmax."""
    rows = _thinned(rows)

    def levels(step: Tensor) -> Tensor:
        return (rows / step - half).round().clamp(qmin, qmax) + half

    def fit(width: float) -> tuple[Tensor, Tensor]:
        step = (rows.square().mean(1, keepdim=True).sqrt() * width / (qmax - qmin)).clamp(min=MIN_SCALE)
        for _ in range(ROUNDS):
            found = levels(step)
            step = _ratio((found * rows).sum(1, keepdim=True), found.square().sum(1, keepdim=True))
        return (levels(step) * step - rows).square().sum(1), step[:, 0]

    errors, steps = (torch.stack(parts) for parts in zip(*map(fit, WIDTHS), strict=True))
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]


def fit_step_and_shifts(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """One step () for all rows of (C, n), float32, and a shift (C,) for each.

    Codes are round((x + shift) / step) from qmin to qmax; what they stand for is step * code - shift.
    """
    rows = _thinned(rows)
    means = rows.mean(1, keepdim=True)
    rows = rows - means
    spread = rows.square().mean().sqrt()

    def codes(step: Tensor, shift: Tensor) -> Tensor:
        return ((rows + shift) / step).round().clamp(qmin, qmax)

    def fit(width: float, position: float) -> tuple[Tensor, Tensor, Tensor]:
        step = (spread * width / (qmax - qmin)).clamp(min=MIN_SCALE)
        shift = ((qmin + position * (qmax - qmin)) * step).expand_as(means)
        for _ in range(ROUNDS):
            found = codes(step, shift)
            middle = found.mean(1, keepdim=True)
            step = _ratio(((found - middle) * rows).sum(), (found - middle).square().sum())
            shift = step * middle
        return (step * codes(step, shift) - shift - rows).square().sum(), step, shift

    tried = [fit(width, position) for width in WIDTHS for position in POSITIONS]
    _, step, shift = min(tried, key=lambda result: float(result[0]))
    return step, (shift - means)[:, 0]


def _thinned(rows: Tensor) -> Tensor:
    return rows[:, :: max(1, rows.numel() // VALUES)]


def _ratio(products: Tensor, squares: Tensor) -> Tensor:
    return (products / squares.clamp(min=1e-30)).clamp(min=MIN_SCALE)
