"""The linear tail of a program as one convolution and one PixelShuffle.

EDSR's upsampler (conv, shuffle, conv, shuffle, conv) has no activation, so each output pixel is a weighted sum of the
tail's input plus a constant. At x4 and 64 channels that sum takes a tenth of the multiply-adds of the chain, and no
feature map at high resolution. All but the first convolution pad with zeros what is not zero inside the picture, which
changes the sums of the outermost pixels: hence `edge_conv2d`, with weights for each edge and corner.

The weights come from running the chain backwards, in float64, from the outputs of one low-resolution pixel of each
class; they are rounded to float32 once.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from quantsr.packing.checks import trace
from quantsr.packing.program import Op, Program, Step

Tensors = Mapping[str, np.ndarray]
Array = NDArray[np.float64]

LINEAR = ("affine", "conv2d", "pixel_shuffle")
KERNELS = (1, 3, 5)
GRID = 5  # side of a picture large enough to tell the classes of pixels apart
PLACES = (0, 2, 4)  # on it, of a pixel of each class: first, middle, last


def collapse_tail(program: Program, tensors: Tensors) -> tuple[Program, dict[str, np.ndarray]]:
    """The program with its tail collapsed, and the tensors that it then uses; unchanged if there is nothing to gain.

    The tail is a chain of `affine`, `conv2d` and `pixel_shuffle`, each the only reader of the one before, that begins
    with a `conv2d`, ends with the output and has another `conv2d` behind a `pixel_shuffle`. The result is the same, up
    to float32 rounding, for images of at least 2x2 pixels. Raises what `trace` raises.
    """
    chain = _tail(program, tensors)
    if not chain:
        return program, dict(tensors)
    head = program.ops[: -len(chain)]
    kept = {name: tensors[name] for op in head for name in op.tensors.values()}
    weight, bias = kernels(chain, tensors)
    names = {role: _unused(f"collapsed.{role}", kept) for role in ("weight", "bias")}
    kept |= {names["weight"]: weight.astype(np.float32), names["bias"]: bias.astype(np.float32)}
    first = chain[0].op
    conv = Op("edge_conv2d", first.inputs, first.output, {}, names)
    shuffle = Op("pixel_shuffle", (first.output,), program.output, {"upscale": _upscale(chain)})
    return Program((*head, conv, shuffle), program.output), kept


def kernels(chain: Sequence[Step], tensors: Tensors) -> tuple[Array, Array]:
    """Weights (9, O, K, K, I) and biases (9, O) of the `edge_conv2d` that a chain amounts to, before its shuffle."""
    classes = [_Backwards(chain, tensors, row, column) for row in PLACES for column in PLACES]
    return np.stack([c.weight for c in classes]), np.stack([c.bias for c in classes])


def _tail(program: Program, tensors: Tensors) -> list[Step]:
    """The longest collapsible chain that ends with the output; empty if there is none."""
    steps = list(trace(program, tensors))
    readers = Counter(name for op in program.ops for name in op.inputs)
    chain: list[Step] = []
    value, readers_wanted = program.output, 0
    for step in reversed(steps):
        op = step.op
        if op.output != value or readers[value] != readers_wanted or op.kind not in LINEAR:
            break
        chain.insert(0, step)
        value, readers_wanted = op.inputs[0], 1
    return next((chain[i:] for i in range(len(chain)) if _collapsible(chain[i:])), [])


def _collapsible(chain: Sequence[Step]) -> bool:
    kinds = [step.op.kind for step in chain]
    if kinds[0] != "conv2d" or "pixel_shuffle" not in kinds:
        return False
    if "conv2d" not in kinds[kinds.index("pixel_shuffle") :]:
        return False  # already one convolution and a shuffle, or convolutions at low resolution
    # If the convolutions behind the first see one pixel far, only the outermost pixels see their padding.
    if _reach(chain[1:], chain) > 1 or _kernel(chain) not in KERNELS:
        return False
    outputs = chain[-1].output.channels * _upscale(chain) ** 2
    collapsed = _kernel(chain) ** 2 * chain[0].inputs[0].channels * outputs
    return collapsed < sum(_multiply_adds(step) * _zoom(step, chain) ** 2 for step in chain)


def _reach(steps: Sequence[Step], chain: Sequence[Step]) -> Fraction:
    """How many pixels of the chain's input its convolutions among `steps` see beyond their own."""
    return sum((Fraction(step.dims.get("K", 1) // 2, _zoom(step, chain)) for step in steps), Fraction(0))


def _kernel(chain: Sequence[Step]) -> int:
    return 2 * math.ceil(_reach(chain, chain)) + 1


def _zoom(step: Step, chain: Sequence[Step]) -> int:
    """Resolution of the step's input relative to the chain's."""
    return step.inputs[0].factor // chain[0].inputs[0].factor


def _upscale(chain: Sequence[Step]) -> int:
    return chain[-1].output.factor // chain[0].inputs[0].factor


def _multiply_adds(step: Step) -> int:
    """Per pixel of its input."""
    return step.dims["K"] ** 2 * step.dims["C"] * step.dims["O"] if step.op.kind == "conv2d" else 0


def _unused(name: str, taken: Tensors) -> str:
    return name if name not in taken else _unused(name + ".", taken)


class _Backwards:
    """How the outputs of one pixel of a GRID x GRID picture depend on the chain's input: `weight` (O, K, K, I), `bias`.

    The outputs of the pixel are those of its upscale x upscale square, in the channel order of `pixel_shuffle`.
    `slope` holds the derivative of each by a window of the value at which the walk has arrived: (O, height, width, C).
    What lies outside of the window has no influence.
    """

    def __init__(self, chain: Sequence[Step], tensors: Tensors, row: int, column: int) -> None:
        upscale, channels = _upscale(chain), chain[-1].output.channels
        outputs = channels * upscale**2
        self.slope = np.eye(outputs).reshape(outputs, channels, upscale, upscale).transpose(0, 2, 3, 1)
        self.corner = (row * upscale, column * upscale)  # of the window, in the picture
        self.side = GRID * upscale  # of the picture
        self.bias = np.zeros(outputs)
        for step in reversed(chain):
            arrays = {role: tensors[name].astype(np.float64) for role, name in step.op.tensors.items()}
            if step.op.kind == "affine":
                self.affine(**arrays)
            elif step.op.kind == "conv2d":
                self.conv2d(**arrays)
            else:
                self.pixel_shuffle(int(step.op.attrs["upscale"]))
        self.weight = self.embedded(_kernel(chain), row, column)

    def affine(self, scale: Array, offset: Array) -> None:
        self.bias += self.slope.sum((1, 2)) @ offset
        self.slope = self.slope * scale

    def conv2d(self, weight: Array, bias: Array) -> None:
        self.bias += self.slope.sum((1, 2)) @ bias
        n, h, w, outputs = self.slope.shape
        _, k, _, inputs = weight.shape
        taps = (self.slope.reshape(-1, outputs) @ weight.reshape(outputs, -1)).reshape(n, h, w, k, k, inputs)
        self.slope = np.zeros((n, h + k - 1, w + k - 1, inputs))
        for ky, kx in np.ndindex(k, k):
            self.slope[:, ky : ky + h, kx : kx + w] += taps[:, :, :, ky, kx]
        top, left = (at - k // 2 for at in self.corner)
        self.corner = (max(top, 0), max(left, 0))
        # The padding is not part of the picture.
        self.slope = self.slope[:, self.corner[0] - top : self.side - top, self.corner[1] - left : self.side - left]

    def pixel_shuffle(self, r: int) -> None:
        n, h, w, c = self.slope.shape
        top, left = self.corner
        whole = np.pad(self.slope, ((0, 0), (top % r, -(top + h) % r), (left % r, -(left + w) % r), (0, 0)))
        blocks = whole.reshape(n, whole.shape[1] // r, r, whole.shape[2] // r, r, c)  # n, y, i, x, j, c
        self.slope = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(n, blocks.shape[1], blocks.shape[3], c * r * r)
        self.corner = (top // r, left // r)
        self.side //= r

    def embedded(self, kernel: int, row: int, column: int) -> Array:
        """The window as a kernel around the pixel at (row, column)."""
        n, h, w, c = self.slope.shape
        weight = np.zeros((n, kernel, kernel, c))
        top, left = self.corner[0] - row + kernel // 2, self.corner[1] - column + kernel // 2
        weight[:, top : top + h, left : left + w] = self.slope
        return weight
