"""What turns integers into numbers (`QParams`) and what a network's quantization is (`QuantConfig`)."""

import math
from dataclasses import dataclass

from torch import Tensor

BITS = (2, 3, 4)
MIN_SCALE = 1e-8  # smallest step of a quantizer


class NotPackable(ValueError):
    """A quantizer or placement whose values are no integer codes of the packed format; it trains and runs in torch."""


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """(qmin, qmax): -2^(b-1) .. 2^(b-1)-1 signed, 0 .. 2^b-1 unsigned. Raises ValueError unless bits is 2, 3 or 4."""
    if bits not in BITS:
        raise ValueError(f"got {bits} bits, wanted one of {BITS}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@dataclass(frozen=True)
class QParams:
    """value = scale * code, code one of qmin, qmin + step .. qmax, at most 2^bits of them; the zero point is code 0.

    bits: 2, 3 or 4. scale: float64 scalar (per_tensor) or (O,) (per_channel). shift: float64 (C,) or (1,), added to
    the input before quantization and never subtracted again, or None. step: 1, or 2 for codes that are all odd.
    """

    bits: int
    qmin: int
    qmax: int
    scale: Tensor
    shift: Tensor | None = None
    step: int = 1


@dataclass(frozen=True)
class QuantConfig:
    """Settings of a quantized network, saved in every checkpoint; a packed file keeps what running it needs."""

    weight_bits: int = 4  # bits of the weight codes: 2, 3 or 4
    act_bits: int = 4  # bits of the activation codes: 2, 3 or 4
    quantizer: str = "rlq"  # a key of QUANTIZERS
    placement: str = "body"  # which layers: a key of PLACEMENTS
    temperature: float = 1.0  # T of RLQ's backward staircase; 0 is plain straight-through
    weight_granularity: str = "per_tensor"  # learned weight steps: "per_tensor", or "per_channel" of the output
    act_shift: str = "per_channel"  # RLQ's shift of a layer's input: "per_channel", "per_tensor" or "none"
    weight_shift: bool = False  # RLQ: also one learned shift per weight tensor
    weight_grid: str = "mid_tread"  # RLQ: weight levels -2^(b-1) .. 2^(b-1)-1 steps, or "mid_rise": those + 1/2
    range_init: str = "lsq"  # first steps: "lsq", "percentile", or "least_error", which starts shifts too

    def __post_init__(self) -> None:
        code_range(self.weight_bits, True)
        code_range(self.act_bits, True)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"got temperature {self.temperature}, wanted a finite number, 0 or more")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"got {name} {getattr(self, name)!r}, wanted one of {', '.join(choices)}")


CHOICES = {
    "weight_granularity": ("per_tensor", "per_channel"),
    "act_shift": ("per_channel", "per_tensor", "none"),
    "weight_grid": ("mid_tread", "mid_rise"),
    "range_init": ("lsq", "percentile", "least_error"),
}
