"""What a packed network is made of: ops, the programs built from them, what is known of their values; and its errors.

A program is a flat list of ops in execution order. Its input is the value "image", float32 (H, W, 3), RGB in [0, 1];
its output is float32 (upscale*H, upscale*W, 3), not clamped. Every other value is named by the op that makes it. A
value is either float32 or activation codes, one uint8 per code in 0 .. levels.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IMAGE = "image"  # the name of every program's input
IMAGE_CHANNELS = 3
DEPTHS = ("full", "half", "quarter")  # program names; a model has "full" and any of the others
UPSCALES = (2, 3, 4)
FLOAT_BITS = 32  # weight_bits and act_bits of a model without low-bit layers
MAX_NAME = 128  # characters

SHORT = reprlib.Repr()  # what an error shows of a hostile value stays short
SHORT.maxstring = SHORT.maxother = 300


class PackedModelError(ValueError):
    """A packed model cannot be used; the subclass names the kind of defect."""

    remedy = "Write the file again with quantsr."

    @classmethod
    def of(cls, where: str, got: object, wanted: str) -> "PackedModelError":
        return cls(f"{where}: got {SHORT.repr(got)}, wanted {wanted}. {cls.remedy}")


class LimitError(PackedModelError):
    """Larger than this reader accepts: bytes, header, tensors, ops, channels."""

    remedy = "Such a file is not a quantsr network."


class FieldError(PackedModelError):
    """A key is missing, unknown, of the wrong type or out of range."""


class GraphError(PackedModelError):
    """Ops do not fit together: undefined or repeated names, channels, resolution, codes where floats belong."""


class TensorError(PackedModelError):
    """A tensor is missing, unused, of the wrong dtype or shape, not finite, or has padding bits set."""


@dataclass(frozen=True)
class Op:
    """One step: `output` = kind(inputs) with scalar attributes and tensors (role -> name in PackedModel.tensors)."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, int | float] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"op {self.output!r} ({self.kind})"


@dataclass(frozen=True)
class Program:
    """Ops in execution order and the name of the value that is the result."""

    ops: tuple[Op, ...]
    output: str

    def up_to(self, value: str) -> "Program":
        """The ops that a value depends on, with it as the result."""
        needed, kept = {value}, []
        for op in reversed(self.ops):
            if op.output in needed:
                kept.append(op)
                needed.update(op.inputs)
        return Program(tuple(reversed(kept)), value)


@dataclass(frozen=True)
class PackedModel:
    """A network ready to run: `info` (see INFO), a program per depth, and the tensors that the programs share."""

    info: dict[str, Any]
    programs: dict[str, Program]
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Value:
    """What is known of a value before running: its height and width are `factor` times the image's, each of the image's
    first rounded up to a multiple of `multiple`.
    """

    channels: int
    factor: int = 1
    levels: int = 0  # 0: float32; else uint8 codes in 0 .. levels
    multiple: int = 1


Dims = dict[str, int]


@dataclass(frozen=True)
class Step:
    """An op with the letters of its tensor shapes bound and its values known."""

    op: Op
    dims: Dims
    inputs: tuple[Value, ...]
    output: Value
