"""Parts of a network: the whole, its body alone, one layer; and the same with the tail as one convolution.

A part is a list of ops that begins with a value `image` of any number of channels.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from quantsr import reference
from quantsr.bench import random_network
from quantsr.packing.collapse import collapse_tail
from quantsr.packing.ops import ATTENTIONS, QCONVS
from quantsr.packing.program import IMAGE, IMAGE_CHANNELS, Op, Program

PARTS = ("layer", "body", "network")
TAILS = ("as-is", "collapsed")
INNER = 4  # of the nine classes of pixels, the one not at a border

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
    made = {op.output for op in ops if op.kind in QCONVS}
    last = max(i for i, op in enumerate(ops) if op.kind == "residual" and op.inputs[1] in made)
    stream = ops[first].inputs[0]
    before = Part(whole.program.up_to(stream), whole.tensors)
    inside = tuple(_reading(op, stream, IMAGE) for op in ops[first : last + 1])
    channels = len(whole.tensors[ops[first].tensors["offset"]])
    return before, Part(Program(inside, ops[last].output), whole.tensors, channels)


def layer(features: np.ndarray, seed: int) -> Part:
    """A chain of equal layers; a time is divided by their number, so the float input and output weigh little."""
    program, tensors = random_network.layers(features, seed)
    return Part(program, tensors, features.shape[2])


def can_collapse(whole: Part) -> bool:
    return collapsed(whole).program != whole.program


def collapsed(whole: Part) -> Part:
    """The linear tail as one convolution and one shuffle, with kernels of their own for the outermost pixels: exact."""
    return Part(*collapse_tail(whole.program, whole.tensors), whole.channels)


def with_inner_kernels(part: Part) -> Part:
    """`edge_conv2d` as a convolution with its inner kernel, for runtimes that know one kernel: wrong at the border."""
    tensors = dict(part.tensors)
    ops = []
    for op in part.program.ops:
        if op.kind == "edge_conv2d":
            tensors |= {name: np.ascontiguousarray(tensors[name][INNER]) for name in op.tensors.values()}
            op = Op("conv2d", op.inputs, op.output, {}, op.tensors)
        ops.append(op)
    return Part(Program(tuple(ops), part.program.output), tensors, part.channels)


def _reading(op: Op, old: str, new: str) -> Op:
    inputs = tuple(new if name == old else name for name in op.inputs)
    return Op(op.kind, inputs, op.output, op.attrs, op.tensors)


def has_size(part: Part) -> bool:
    """Whether it is a transformer, of which other runtimes get a graph of one size."""
    return any(op.kind in ATTENTIONS for op in part.program.ops)
