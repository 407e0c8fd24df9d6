"""ONNX nodes for what transformers add. Values of their layers are (1, H, W, C), so that linear layers are MatMuls."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantsr.packing.ops import Op

HIDDEN = np.float32(-100)  # added to a logit of a pair of pixels on different sides of the border, as SwinIR does


class Graph(Protocol):
    """What these rules need of `export_onnx`'s graph."""

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str: ...
    def constant(self, name: str, array: Any) -> str: ...


def pad(graph: Graph, value: str, op: Op, size: tuple[int, int]) -> None:
    """(1, C, H, W) of this size, mirrored to the right and below."""
    for axis, side in enumerate(size):
        period = max(2 * (side - 1), 1)
        at = np.arange(side + -side % int(op.attrs["multiple"])) % period
        index = graph.constant(f"{op.output}.{axis}.index", np.minimum(at, period - at))
        name = op.output if axis else f"{op.output}.rows"
        value = graph.node("Gather", [value, index], name, axis=2 + axis)


def crop(graph: Graph, value: str, op: Op, size: tuple[int, int]) -> None:
    ends = [side * int(op.attrs["factor"]) for side in size]
    cuts = [graph.constant(f"{op.output}.{name}", np.array(v)) for name, v in (("starts", [0, 0]), ("ends", ends))]
    graph.node("Slice", [value, *cuts, graph.constant(f"{op.output}.axes", np.array([2, 3]))], op.output)


def gelu(graph: Graph, value: str, op: Op) -> None:
    """x * 0.5 * (1 + erf(x / sqrt 2)): the pattern that runtimes know."""
    scaled = graph.node("Div", [value, graph.constant("gelu.root", np.float32(math.sqrt(2)))], f"{op.output}.scaled")
    one = graph.constant("gelu.one", np.float32(1))
    value_of_erf = graph.node("Erf", [scaled], f"{op.output}.erf")
    factor = graph.node("Add", [value_of_erf, one], f"{op.output}.factor")
    product = graph.node("Mul", [value, factor], f"{op.output}.product")
    graph.node("Mul", [product, graph.constant("gelu.half", np.float32(0.5))], op.output)


def attention(graph: Graph, value: str, op: Op, size: tuple[int, int], table: NDArray[Any]) -> None:
    """size: padded; table: the position biases."""
    (height, width), name = size, op.output
    window, shift, heads = (int(op.attrs[key]) for key in ("window", "shift", "heads"))
    down, across, pixels = height // window, width // window, window**2
    value = _rolled(graph, value, f"{name}.rolled", shift)
    value = _reshaped(graph, value, f"{name}.cut", (down, window, across, window, 3, heads, -1))
    value = graph.node("Transpose", [value], f"{name}.parts", perm=[4, 0, 2, 5, 1, 3, 6])
    value = _reshaped(graph, value, f"{name}.windows", (3, down * across, heads, pixels, -1))
    q, k, v = (
        graph.node("Gather", [value, graph.constant(f"attention.{i}", np.array(i))], f"{name}.{part}", axis=0)
        for i, part in enumerate("qkv")
    )
    q = graph.node("Mul", [q, graph.constant(f"{name}.scale", np.float32(op.attrs["scale"]))], f"{name}.scaled")
    k = graph.node("Transpose", [k], f"{name}.keys", perm=[0, 1, 3, 2])
    logits = graph.node("MatMul", [q, k], f"{name}.products")
    bias = graph.constant(f"{name}.bias", table[_pairs(window)].transpose(2, 0, 1)[None])
    logits = graph.node("Add", [logits, bias], f"{name}.logits")
    if shift:
        mask = f"attention.mask.{window}.{shift}.{height}.{width}"
        hidden = graph.constant(mask, _hidden(height, width, window, shift)[:, None])
        logits = graph.node("Add", [logits, hidden], f"{name}.masked")
    weights = graph.node("Softmax", [logits], f"{name}.weights", axis=-1)
    mixed = graph.node("MatMul", [weights, v], f"{name}.mixed")
    mixed = _reshaped(graph, mixed, f"{name}.apart", (down, across, heads, window, window, -1))
    mixed = graph.node("Transpose", [mixed], f"{name}.joined", perm=[0, 3, 1, 4, 2, 5])
    mixed = _reshaped(graph, mixed, f"{name}.image", (1, height, width, -1))
    graph.node("Identity", [_rolled(graph, mixed, f"{name}.back", -shift)], name)


def _rolled(graph: Graph, value: str, name: str, shift: int) -> str:
    """(1, H, W, C) whose first pixel was (shift, shift)."""
    if shift == 0:
        return value
    for axis in (1, 2):
        ends = [graph.constant(f"roll.{v}", np.array([v])) for v in (0, shift, np.iinfo(np.int64).max)]
        along = graph.constant(f"roll.axis.{axis}", np.array([axis]))
        first = graph.node("Slice", [value, ends[0], ends[1], along], f"{name}.{axis}.first")
        rest = graph.node("Slice", [value, ends[1], ends[2], along], f"{name}.{axis}.rest")
        value = graph.node("Concat", [rest, first], f"{name}.{axis}", axis=axis)
    return value


def _reshaped(graph: Graph, value: str, name: str, shape: Sequence[int]) -> str:
    return graph.node("Reshape", [value, graph.constant(f"{name}.shape", np.array(shape))], name)


def _pairs(side: int) -> NDArray[Any]:
    """Row of the position biases for each pair of pixels of a window: (T, T)."""
    y, x = np.divmod(np.arange(side * side), side)
    return (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1


def _hidden(height: int, width: int, side: int, shift: int) -> NDArray[Any]:
    """HIDDEN for each pair of pixels of a window on different sides of the border, else 0: (windows, T, T)."""
    rows, columns = (np.arange(size) >= size - shift for size in (height, width))
    part = 2 * rows[:, None] + columns
    part = part.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side * side)
    return np.where(part[:, :, None] == part[:, None, :], np.float32(0), HIDDEN)
