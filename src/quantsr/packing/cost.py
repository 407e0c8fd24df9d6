"""What a packed network costs: values, bytes, multiply-adds, bit operations. One written definition for every table.

All counts of work are for one low-resolution input, 320x180 unless told otherwise, at every upscale, and cover the
convolutions and the products of attention, taps on the padding included; other ops (a few operations per value) are
not counted, nor what `pad` adds to the picture. For a convolution K x K from I to O channels on an h x w value, with
K = 1 for a linear layer, and for attention over C channels in windows of T pixels:

    weights  K*K*I*O            MACs    h*w*K*K*I*O          BitOPs  MACs * weight_bits * act_bits, float: 32 * 32
             0                          h*w*2*T*C            MACs * bits of both factors, float: 32 * 32

`weights` leaves out biases, and steps, shifts and gains; those are counted beside it, in `biases` and `scalars`.

Two rules of the literature, in 32-bit equivalents; both count weights only:

    Rule A (BBCU, ICLR 2023)           parameters  sum weights * weight_bits/32
                                       operations  sum MACs * weight_bits*act_bits/64, float: MACs
    Rule B (2DQuant, arXiv 2406.06649) parameters  as rule A
                                       operations  sum MACs * bits/32

Rule A defines only one-bit operations, at 1/64 of a float one; a wider product is taken here as weight_bits*act_bits of
them. Rule B knows one width; where weights and activations differ, the wider counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantsr.packing.checks import trace
from quantsr.packing.file import dumps
from quantsr.packing.ops import ATTENTIONS, OPS, QCONVS
from quantsr.packing.program import FLOAT_BITS, IMAGE_CHANNELS, Op, PackedModel, Program, Step

WIDTH, HEIGHT = 320, 180


@dataclass(frozen=True)
class Layer:
    """One convolution, or a product of one attention: two activations, whose widths stand as weight_bits, act_bits."""

    name: str
    weights: int
    biases: int
    weight_bits: int
    act_bits: int
    macs: int

    @property
    def quantized(self) -> bool:
        return self.weight_bits < FLOAT_BITS

    @property
    def bitops(self) -> int:
        return self.macs * self.weight_bits * self.act_bits


@dataclass(frozen=True)
class Cost:
    """One program. `scalars` are the float values that are neither weights nor biases: steps, shifts, gains, means."""

    layers: tuple[Layer, ...]
    scalars: int

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def biases(self) -> int:
        return sum(layer.biases for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def bitops(self) -> int:
        return sum(layer.bitops for layer in self.layers)

    @property
    def equivalent_weights(self) -> float:
        """Parameters by rules A and B, in 32-bit equivalents."""
        return sum(layer.weights * layer.weight_bits for layer in self.layers) / FLOAT_BITS

    @property
    def rule_a_ops(self) -> float:
        return sum(x.macs * (x.weight_bits * x.act_bits / 64 if x.quantized else 1) for x in self.layers)

    @property
    def rule_b_ops(self) -> float:
        return sum(layer.macs * max(layer.weight_bits, layer.act_bits) / FLOAT_BITS for layer in self.layers)


def cost(
    program: Program,
    tensors: Mapping[str, np.ndarray],
    width: int = WIDTH,
    height: int = HEIGHT,
    channels: int = IMAGE_CHANNELS,
) -> Cost:
    """Cost of a program for a low-resolution input of width x height pixels. Raises what `trace` raises."""
    steps = list(trace(program, tensors, channels))
    layers = tuple(layer for step in steps for layer in _layers(step, width * height))
    return Cost(layers, sum(_scalars(step.op, tensors) for step in steps))


def parts(model: PackedModel) -> dict[str, int]:
    """Bytes of the file by part; they add up to its size. The header holds settings, ops, `inv` and `gain`."""
    ops = [op for program in model.programs.values() for op in program.ops]
    owner = {name: _part(op.kind, role) for op in ops for role, name in op.tensors.items()}
    sizes = Counter(dict.fromkeys(("low-bit weights", "float weights", "biases", "scalars"), 0))
    for name, array in model.tensors.items():
        sizes[owner[name]] += array.nbytes
    return {"header": len(dumps(model)) - sizes.total(), **sizes}


def _layers(step: Step, pixels: int) -> Iterator[Layer]:
    d = step.dims
    if step.op.kind in ATTENTIONS:
        yield from _products(step, pixels)
    if "K" not in d:
        return
    kernel, copies = d["K"] ** 2 * d["C"] * d["O"], d.get("E", 1)
    macs = kernel * pixels * step.inputs[0].factor ** 2
    widths = {key: int(step.op.attrs.get(key, FLOAT_BITS)) for key in ("weight_bits", "act_bits")}
    yield Layer(step.op.output, copies * kernel, copies * d["O"], macs=macs, **widths)


def _products(step: Step, pixels: int) -> Iterator[Layer]:
    """Of queries and keys, and of the softmax's results and values."""
    macs = pixels * int(step.op.attrs["window"]) ** 2 * step.output.channels
    width = step.inputs[0].levels.bit_length() or FLOAT_BITS
    softmax = int(step.op.attrs.get("softmax_levels", 0)).bit_length() or FLOAT_BITS
    yield Layer(f"{step.op.output}.scores", 0, 0, width, width, macs)
    yield Layer(f"{step.op.output}.mixture", 0, 0, softmax, width, macs)


def _scalars(op: Op, tensors: Mapping[str, np.ndarray]) -> int:
    floats = sum(rule.type is float for rule in OPS[op.kind].attrs.values())
    return floats + sum(tensors[name].size for role, name in op.tensors.items() if _part(op.kind, role) == "scalars")


def _part(kind: str, role: str) -> str:
    if role == "weight":
        return "low-bit weights" if kind in QCONVS else "float weights"
    return "biases" if role == "bias" else "scalars"
