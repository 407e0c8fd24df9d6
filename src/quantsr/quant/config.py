"""What turns integers into numbers (`QParams`) and what a network's quantization is (`QuantConfig`)."""

from dataclasses import dataclass

from torch import Tensor

BITS = (2, 3, 4)
MIN_SCALE = 1e-8  # smallest step of a quantizer


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """(qmin, qmax): -2^(b-1) .. 2^(b-1)-1 signed, 0 .. 2^b-1 unsigned. Raises ValueError unless bits is 2, 3 or 4."""
    if bits not in BITS:
        raise ValueError(f"got {bits} bits, wanted one of {BITS}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@dataclass(frozen=True)
class QParams:
    """value = scale * code, code in [qmin, qmax]; the zero point is code 0.

    bits: 2, 3 or 4. scale: float64 scalar (per_tensor) or (O,) (per_channel). shift: float64 (C,), added to the
    input before quantization and never subtracted again, or None.
    """

    bits: int
    signed: bool
    scale: Tensor
    shift: Tensor | None = None

    @property
    def qmin(self) -> int:
        return code_range(self.bits, self.signed)[0]

    @property
    def qmax(self) -> int:
        return code_range(self.bits, self.signed)[1]


@dataclass(frozen=True)
class QuantConfig:
    """Settings of a quantized network, saved in every checkpoint; a packed file keeps what running it needs."""

    weight_bits: int = 4  # bits of the weight codes: 2, 3 or 4
    act_bits: int = 4  # bits of the activation codes: 2, 3 or 4
    quantizer: str = "rlq"  # a key of QUANTIZERS
    placement: str = "body"  # which layers: a key of PLACEMENTS
    temperature: float = 1.0  # T of RLQ's backward staircase; 0 is plain straight-through

    def __post_init__(self) -> None:
        code_range(self.weight_bits, True)
        code_range(self.act_bits, True)
        if self.temperature < 0:
            raise ValueError(f"got temperature {self.temperature}, wanted 0 or more")
