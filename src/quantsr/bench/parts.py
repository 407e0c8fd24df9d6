"""Parts of a network: the whole, its body alone, one layer; and the same with the tail as one convolution.

A part is a list of ops that begins with a value `image` of any number of channels.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from quantsr import reference
from quantsr.bench import random_network
from quantsr.packing.ops import IMAGE, IMAGE_CHANNELS, Op, Program

PARTS = ("layer", "body", "network")
TAILS = ("as-is", "collapsed")
_LINEAR = ("conv2d", "pixel_shuffle")

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """A program, the tensors that it uses (others may lie beside them), and the channels of its input."""

    program: Program
    tensors: Tensors
    channels: int = IMAGE_CHANNELS

    def run(self, image: np.ndarray) -> np.ndarray:
        """By the reference, but for any number of channels: float32 (H, W, channels) to float32."""
        values = {IMAGE: image}
        for op in self.program.ops:
            values[op.output] = reference.step(op, [values[name] for name in op.inputs], self.tensors)
        return values[self.program.output]


def save(part: Part, path: Path) -> None:
    used = {name for op in part.program.ops for name in op.tensors.values()}
    program = json.dumps(asdict(part.program) | {"channels": part.channels})
    tensors = {name: np.ascontiguousarray(part.tensors[name]) for name in used}
    save_file(tensors, path, metadata={"program": program})


def load(path: Path) -> Part:
    with safe_open(path, framework="numpy") as file:
        fields = json.loads(file.metadata()["program"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    ops = tuple(Op(**op | {"inputs": tuple(op["inputs"])}) for op in fields["ops"])
    return Part(Program(ops, fields["output"]), tensors, fields["channels"])


def body(whole: Part) -> tuple[Part, Part]:
    """What comes before the first quantizer, and from there to the sum that ends the last low-bit block."""
    ops = whole.program.ops
    kinds = [op.kind for op in ops]
    first = kinds.index("quantize")
    made = {op.output for op in ops if op.kind == "qconv2d"}
    last = max(i for i, op in enumerate(ops) if op.kind == "residual" and op.inputs[1] in made)
    stream = ops[first].inputs[0]
    before = Part(Program(_needed_for(stream, ops[:first]), stream), whole.tensors)
    inside = tuple(_reading(op, stream, IMAGE) for op in ops[first : last + 1])
    channels = len(whole.tensors[ops[first].tensors["offset"]])
    return before, Part(Program(inside, ops[last].output), whole.tensors, channels)


def layer(features: np.ndarray, seed: int) -> Part:
    """A chain of equal layers; a time is divided by their number, so the float input and output weigh little."""
    program, tensors = random_network.layers(features, seed)
    return Part(program, tensors, features.shape[2])


def tail_length(program: Program) -> int:
    """How many convolutions and shuffles end the program, a last affine aside: each linear, one after the other."""
    ops = program.ops[:-1] if program.ops[-1].kind == "affine" else program.ops
    length = 0
    while ops[-1 - length].kind in _LINEAR:
        length += 1
    return length


def can_collapse(program: Program) -> bool:
    ops = program.ops[-1 - tail_length(program) :]
    return sum(op.kind == "conv2d" for op in ops) > 1


def collapse_interior(whole: Part) -> Part:
    """The linear tail as one 5x5 convolution and one pixel shuffle: exact but for the outermost pixels.

    The kernel is the tail's answer to a unit impulse in each channel, at the centre of a picture so large that the
    border is out of reach. Near the border the inner zero padding makes another kernel, which is left out here.
    """
    program, length = whole.program, tail_length(whole.program)
    end = len(program.ops) - (program.ops[-1].kind == "affine")
    tail = program.ops[end - length : end]
    source, channels = tail[0].inputs[0], whole.tensors[tail[0].tensors["weight"]].shape[3]
    answer = Part(Program(tuple(_reading(op, source, IMAGE) for op in tail), tail[-1].output), whole.tensors).run
    weight, bias, factor = _impulse_response(answer, channels)
    name = "collapsed"
    tensors = {**whole.tensors, f"{name}.weight": weight, f"{name}.bias": bias}
    ops = (
        Op("conv2d", (source,), name, {}, {"weight": f"{name}.weight", "bias": f"{name}.bias"}),
        Op("pixel_shuffle", (name,), tail[-1].output, {"upscale": factor}),
    )
    kept = (*program.ops[: end - length], *ops, *program.ops[end:])
    return Part(Program(kept, program.output), tensors, whole.channels)


def _impulse_response(answer: Callable[[np.ndarray], np.ndarray], channels: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Weight (3*f*f, 5, 5, channels), bias and f of the convolution that, shuffled by f, gives `answer`."""
    side, centre = 9, 4
    zero = np.zeros((side, side, channels), np.float32)
    rest = answer(zero)
    factor = rest.shape[0] // side
    bias = _unshuffled(rest, factor)[centre, centre]
    weight = np.empty((len(bias), 5, 5, channels), np.float32)
    for c in range(channels):
        impulse = zero.copy()
        impulse[centre, centre, c] = 1
        seen = _unshuffled(answer(impulse) - rest, factor)[centre - 2 : centre + 3, centre - 2 : centre + 3]
        weight[..., c] = seen[::-1, ::-1].transpose(2, 0, 1)  # a pixel at +2 reads the impulse at its -2
    return weight, bias, factor


def _unshuffled(x: np.ndarray, factor: int) -> np.ndarray:
    """The inverse of pixel_shuffle."""
    h, w, c = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
    return x.reshape(h, factor, w, factor, c).transpose(0, 2, 4, 1, 3).reshape(h, w, c * factor**2)


def _reading(op: Op, old: str, new: str) -> Op:
    inputs = tuple(new if name == old else name for name in op.inputs)
    return Op(op.kind, inputs, op.output, op.attrs, op.tensors)


def _needed_for(value: str, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    needed, kept = {value}, []
    for op in reversed(ops):
        if op.output in needed:
            kept.append(op)
            needed.update(op.inputs)
    return tuple(reversed(kept))


def macs(part: Part, pixels: int) -> int:
    """Multiply-adds of all convolutions on an input of so many pixels, counted as direct convolutions."""
    total, factor = 0, {IMAGE: 1}
    for op in part.program.ops:
        own = factor[op.inputs[0]]
        factor[op.output] = own * int(op.attrs["upscale"]) if op.kind == "pixel_shuffle" else own
        total += pixels * own**2 * _weights(op, part.tensors)
    return total


def _weights(op: Op, tensors: Tensors) -> int:
    if op.kind == "conv2d":
        return tensors[op.tensors["weight"]].size
    fields: dict[str, Any] = dict(op.attrs)
    return int(fields["in_channels"] * fields["out_channels"] * fields["kernel"] ** 2) if op.kind == "qconv2d" else 0
