"""The float convolutions behind the low-bit layers as 8-bit ones: faster on some CPUs, at a small loss.

Weights are rounded to 8 bits with a scale per output channel, activations to 8 bits with a scale per input channel,
which is divided out of the weights before they are rounded. Scales of activations come from the largest magnitudes on
`picture()`, a made-up picture, with some headroom. All of it is plain arithmetic on equal bytes, so every machine gets
the same program.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsr.packing import bits
from quantsr.packing.checks import trace
from quantsr.packing.ops import MIN_MUL, QCONVS
from quantsr.packing.program import IMAGE, Op, Program, Step, Value

Tensors = Mapping[str, np.ndarray]
Runner = Callable[[Program, np.ndarray], np.ndarray]

BITS = 8
ZERO = 2 ** (BITS - 1)  # the code of 0
LARGEST = ZERO - 1  # in steps, of either sign; weights too
HEADROOM = 1.1  # photographs may go beyond the picture's largest magnitudes
NARROWEST = 2.0**-10  # least range of a channel, as a share of the widest one's
MIN_CHANNELS = 16  # codes come in groups of so many channels
KINDS = {"conv2d": ("qconv2d", (1, 3)), "edge_conv2d": ("edge_qconv2d", (1, 3, 5))}  # to what, and kernels

SIDE, RECTANGLES, LONGEST = 128, 240, 40  # the picture, and the longest side of a rectangle


class NothingToRound(ValueError):
    """The program has no convolution that could run in 8 bits."""


def with_eight_bits(program: Program, tensors: Tensors, run: Runner) -> tuple[Program, dict[str, np.ndarray]]:
    """The program with 8-bit convolutions, and the tensors that it then uses.

    Concerns each `conv2d` and `edge_conv2d` behind the last `qconv2d` that has MIN_CHANNELS input channels or more. run
    gives the value of a program for a picture, by the same bytes on every machine. Raises NothingToRound, and what
    `trace` raises.
    """
    steps = list(trace(program, tensors))
    first = max((i for i, step in enumerate(steps) if step.op.kind in QCONVS), default=len(steps))
    chosen = {step.op.output for step in steps[first:] if _can_round(step)}
    if not chosen:
        wanted = f"float convolutions of {MIN_CHANNELS} or more input channels behind low-bit layers"
        raise NothingToRound(f"8 bits: wanted {wanted}, got none")
    rounding = _Rounding(program, tensors, run)
    for op in program.ops:
        rounding.conv(op) if op.output in chosen else rounding.keep(op)
    return Program(tuple(rounding.ops), program.output), rounding.tensors


def picture() -> NDArray[np.float32]:
    """float32 (SIDE, SIDE, 3) in [0, 1]: rectangles of random place, size and colour over each other."""
    image = np.zeros((SIDE, SIDE, 3))
    random = np.random.RandomState(0).random_sample((RECTANGLES, 7))  # the generator whose numbers numpy never changes
    for top, left, height, width, *colour in random:
        rows, columns = _stretch(top, height), _stretch(left, width)
        image[rows, columns] = np.floor(np.array(colour) * 256)
    return (image / 255).astype(np.float32)


def _stretch(start: float, length: float) -> slice:
    """1 to LONGEST pixels, the first maybe beyond the picture."""
    begin = int(start * (SIDE + LONGEST // 2)) - LONGEST // 2
    return slice(max(begin, 0), max(begin + 1 + int(length * LONGEST), 0))


def _can_round(step: Step) -> bool:
    kernels = KINDS.get(step.op.kind, ("", ()))[1]
    return step.dims.get("K") in kernels and step.dims["C"] >= MIN_CHANNELS


class _Rounding:
    """The new program, op by op."""

    def __init__(self, program: Program, tensors: Tensors, run: Runner) -> None:
        self.source, self.given, self.run = program, tensors, run
        self.values = {step.op.output: step.output for step in trace(program, tensors)}
        self.ops: list[Op] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.names = {op.output for op in program.ops} | set(tensors)
        self.codes: dict[str, tuple[str, np.ndarray]] = {}  # of each rounded value: its codes, steps per unit

    def keep(self, op: Op) -> None:
        self.ops.append(op)
        self.tensors |= {name: self.given[name] for name in op.tensors.values()}

    def conv(self, op: Op) -> None:
        value = op.inputs[0]
        if value not in self.codes:
            self.codes[value] = self.quantize(value)
        codes, inv = self.codes[value]
        weight, bias = (self.given[op.tensors[role]] for role in ("weight", "bias"))
        rounded, mul = round_weight(weight / inv.astype(np.float64))
        *_, outputs, kernel, _, inputs = weight.shape
        attrs = {"in_channels": inputs, "out_channels": outputs, "kernel": kernel}
        attrs |= {"weight_bits": BITS, "act_bits": BITS, "zero": ZERO}
        stored = bits.pack((rounded + ZERO).astype(np.uint8), BITS)
        self.add(KINDS[op.kind][0], codes, op.output, attrs, weight=stored, mul=mul, bias=bias)

    def quantize(self, value: str) -> tuple[str, np.ndarray]:
        """An `affine` with the scales, then a `quantize` of step 1: the engine makes one of them."""
        seen = self.run(_up_to(self.source, value, self.values[value]), picture())
        largest = np.abs(seen).max((0, 1)).astype(np.float64)
        largest = np.maximum(largest, (largest.max() or 1) * NARROWEST)
        inv = (LARGEST / (HEADROOM * largest)).astype(np.float32)
        scaled, codes = self.unused(f"{value}.scaled"), self.unused(f"{value}.codes8")
        self.add("affine", value, scaled, {}, scale=inv, offset=np.full_like(inv, ZERO))
        self.add("quantize", scaled, codes, {"inv": 1.0, "levels": 2**BITS - 1}, offset=np.zeros_like(inv))
        return codes, inv

    def add(self, kind: str, value: str, output: str, attrs: dict[str, Any], **tensors: np.ndarray) -> None:
        names = {role: self.unused(f"{output}.{role}8") for role in tensors}
        self.ops.append(Op(kind, (value,), output, attrs, names))
        self.tensors |= {names[role]: array for role, array in tensors.items()}

    def unused(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def round_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 (..., O, K, K, I) to codes -LARGEST .. LARGEST of that shape and float32 steps (..., O)."""
    largest = np.abs(weight).max((-3, -2, -1))
    mul = (largest / LARGEST).astype(np.float32)
    mul[mul < MIN_MUL] = 0
    steps = np.where(mul > 0, mul, np.inf).astype(np.float64)[..., None, None, None]
    return np.rint(weight / steps).clip(-LARGEST, LARGEST), mul


def _up_to(program: Program, value: str, kind: Value) -> Program:
    """The ops that the value depends on, and one that takes padding off it."""
    part = program.up_to(value)
    if kind.multiple == 1:
        return part
    cropped = f"{value}.cropped"
    return Program((*part.ops, Op("crop", (value, IMAGE), cropped, {"factor": kind.factor})), cropped)
