"""ONNX nodes for what transformers add. Values of their layers are (1, H, W, C), so that linear layers are MatMuls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsr.onnx_nodes import Nodes
from quantsr.packing.ops import bias_rows
from quantsr.packing.program import Op

HIDDEN = np.float32(-100)  # added to a logit of a pair of pixels on different sides of the border, as SwinIR does


def pad(graph: Nodes, value: str, op: Op, size: tuple[int, int]) -> None:
    """(1, C, H, W) of this size, mirrored to the right and below."""
    for axis, side in enumerate(size):
        period = max(2 * (side - 1), 1)
        at = np.arange(side + -side % int(op.attrs["multiple"])) % period
        index = graph.constant(f"{op.output}.{axis}.index", np.minimum(at, period - at))
        name = op.output if axis else f"{op.output}.rows"
        value = graph.node("Gather", [value, index], name, axis=2 + axis)


def crop(graph: Nodes, value: str, op: Op, size: tuple[int, int]) -> None:
    ends = [side * int(op.attrs["factor"]) for side in size]
    cuts = [graph.constant(f"{op.output}.{name}", np.array(v)) for name, v in (("starts", [0, 0]), ("ends", ends))]
    graph.node("Slice", [value, *cuts, graph.constant(f"{op.output}.axes", np.array([2, 3]))], op.output)


def gelu(graph: Nodes, value: str, op: Op) -> None:
    """x * 0.5 * (1 + erf(x / sqrt 2)): the pattern that runtimes know."""
    scaled = graph.node("Div", [value, graph.constant("gelu.root", np.float32(math.sqrt(2)))], f"{op.output}.scaled")
    one = graph.constant("gelu.one", np.float32(1))
    value_of_erf = graph.node("Erf", [scaled], f"{op.output}.erf")
    factor = graph.node("Add", [value_of_erf, one], f"{op.output}.factor")
    product = graph.node("Mul", [value, factor], f"{op.output}.product")
    graph.node("Mul", [product, graph.constant("gelu.half", np.float32(0.5))], op.output)


def attention(graph: Nodes, value: str, op: Op, size: tuple[int, int], table: NDArray[Any]) -> None:
    """size: padded; table: the position biases."""
    name = op.output
    q, k, v = _parts(graph, value, op, size)
    q = graph.node("Mul", [q, graph.constant(f"{name}.scale", np.float32(op.attrs["scale"]))], f"{name}.queries")
    products = graph.node("MatMul", [q, _turned(graph, k, name)], f"{name}.products")
    weights = _softmax(graph, products, op, size, table)
    _joined(graph, graph.node("MatMul", [weights, v], f"{name}.mixed"), op, size)


def code_attention(
    graph: Nodes, value: str, op: Op, size: tuple[int, int], levels: int, tensors: Mapping[str, NDArray[Any]]
) -> None:
    """The same of what is to be rounded to codes 0 .. levels; all four factors are, in steps of 1."""
    name, one = op.output, np.float32(1)

    def rounded(value: str, part: str, most: int) -> str:
        zero = int(op.attrs[f"{part}_zero"])
        if zero:
            less = graph.constant(f"attention.less.{zero}", np.float32(-zero))
            value = graph.node("Add", [value, less], f"{name}.{part}.centred")
        return graph.rounded(value, one, zero, most, f"{name}.{part}")

    def times(value: str, factor: str, output: str) -> str:
        return graph.node("Mul", [value, graph.constant(f"{name}.{factor}", np.float32(op.attrs[factor]))], output)

    parts = zip(_parts(graph, value, op, size), ("query", "key", "value"), strict=True)
    q, k, v = (rounded(part, which, levels) for part, which in parts)
    products = times(
        graph.node("MatMul", [q, _turned(graph, k, name)], f"{name}.sums"), "score_mul", f"{name}.products"
    )
    weights = times(_softmax(graph, products, op, size, tensors["position_bias"]), "softmax_inv", f"{name}.steps_of")
    offset = graph.constant(f"{name}.softmax_offset", tensors["softmax_offset"][None, :, None, None])
    weights = rounded(
        graph.node("Add", [weights, offset], f"{name}.moved_by"), "softmax", int(op.attrs["softmax_levels"])
    )
    if op.attrs["shift"]:  # an offset gives even a weight of 0 a code
        (height, width), window, shift = size, int(op.attrs["window"]), int(op.attrs["shift"])
        seen = (_hidden(height, width, window, shift)[:, None] == 0).astype(np.float32)
        mask = graph.constant(f"attention.seen.{window}.{shift}.{height}.{width}", seen)
        weights = graph.node("Mul", [weights, mask], f"{name}.visible")
    mixed = graph.node("MatMul", [weights, v], f"{name}.mixed_sums")
    _joined(graph, times(mixed, "mix_mul", f"{name}.mixed"), op, size)


def _turned(graph: Nodes, keys: str, name: str) -> str:
    return graph.node("Transpose", [keys], f"{name}.keys", perm=[0, 1, 3, 2])


def _parts(graph: Nodes, value: str, op: Op, size: tuple[int, int]) -> tuple[str, str, str]:
    """Queries, keys and values: (windows, heads, T, D)."""
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
    return q, k, v


def _softmax(graph: Nodes, products: str, op: Op, size: tuple[int, int], table: NDArray[Any]) -> str:
    (height, width), name, window, shift = size, op.output, int(op.attrs["window"]), int(op.attrs["shift"])
    bias = graph.constant(f"{name}.bias", table[bias_rows(window)].transpose(2, 0, 1)[None])
    logits = graph.node("Add", [products, bias], f"{name}.logits")
    if shift:
        mask = f"attention.mask.{window}.{shift}.{height}.{width}"
        hidden = graph.constant(mask, _hidden(height, width, window, shift)[:, None])
        logits = graph.node("Add", [logits, hidden], f"{name}.masked")
    return graph.node("Softmax", [logits], f"{name}.weights", axis=-1)


def _joined(graph: Nodes, mixed: str, op: Op, size: tuple[int, int]) -> None:
    """(windows, heads, T, D) to an image, rolled back."""
    (height, width), name = size, op.output
    window, shift, heads = (int(op.attrs[key]) for key in ("window", "shift", "heads"))
    down, across = height // window, width // window
    mixed = _reshaped(graph, mixed, f"{name}.apart", (down, across, heads, window, window, -1))
    mixed = graph.node("Transpose", [mixed], f"{name}.joined", perm=[0, 3, 1, 4, 2, 5])
    mixed = _reshaped(graph, mixed, f"{name}.image", (1, height, width, -1))
    graph.node("Identity", [_rolled(graph, mixed, f"{name}.back", -shift)], name)


def _rolled(graph: Nodes, value: str, name: str, shift: int) -> str:
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


def _reshaped(graph: Nodes, value: str, name: str, shape: Sequence[int]) -> str:
    return graph.node("Reshape", [value, graph.constant(f"{name}.shape", np.array(shape))], name)


def _hidden(height: int, width: int, side: int, shift: int) -> NDArray[Any]:
    """HIDDEN for each pair of pixels of a window on different sides of the border, else 0: (windows, T, T)."""
    rows, columns = (np.arange(size) >= size - shift for size in (height, width))
    part = 2 * rows[:, None] + columns
    part = part.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side * side)
    return np.where(part[:, :, None] == part[:, None, :], np.float32(0), HIDDEN)
