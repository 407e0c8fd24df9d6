"""What every op means: a slow, exact, short numpy interpreter. Every other execution is compared with this one.

Float rule: each `*` and `+` is a float32 operation of its own, rounded half to even, never fused. Two sums of many
terms are exceptions: `qconv2d` sums integers and is exact, and `conv2d` starts from the bias and takes one fused
multiply-add in float32 per kernel row, kernel column and input channel, in this order; padding takes part as zeros.
Comparisons treat NaN as the least value: `relu` and `quantize` turn it into 0. The sign of a zero means nothing.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from quantsr.packing.ops import IMAGE, IMAGE_CHANNELS, Op, Program, weight_codes

Tensors = Mapping[str, np.ndarray]

SUMS_AT_ONCE = 2**15  # of a conv2d: bounds its memory, and what is summed stays in the cache


def run(program: Program, tensors: Tensors, image: np.ndarray) -> np.ndarray:
    """image, float32 (H, W, 3) RGB in [0, 1], to float32 (upscale*H, upscale*W, 3), not clamped.

    The program must have passed `check_program`. Raises ValueError for an image of another dtype or shape.
    """
    _check_image(image)
    last = {name: i for i, op in enumerate(program.ops) for name in op.inputs}
    values = {IMAGE: image}
    for i, op in enumerate(program.ops):
        values[op.output] = step(op, [values[name] for name in op.inputs], tensors)
        for name in {name for name in op.inputs if last[name] == i and name != program.output}:
            del values[name]
    return values[program.output]


def run_all(program: Program, tensors: Tensors, image: np.ndarray) -> dict[str, np.ndarray]:
    """Like `run`, but every value by name, the image included: for comparing layer by layer."""
    _check_image(image)
    values = {IMAGE: image}
    for op in program.ops:
        values[op.output] = step(op, [values[name] for name in op.inputs], tensors)
    return values


def step(op: Op, inputs: Sequence[np.ndarray], tensors: Tensors) -> np.ndarray:
    """One op on given inputs, each (H, W, C): float32, or uint8 codes for qconv2d. Returns float32, or codes."""
    with np.errstate(over="ignore", invalid="ignore"):
        return STEPS[op.kind](op, {role: tensors[name] for role, name in op.tensors.items()}, *inputs)


def accumulate(codes: np.ndarray, weights: np.ndarray, zero: int) -> np.ndarray:
    """sum (a - zero)*w: codes uint8 (H, W, I), weights int8 (O, K, K, I) -> int32 (H, W, O). Padding is a = zero.

    A float64 matmul of integers is exact in any order while sums stay below 2**53; here they stay below 2**31.
    """
    return _conv(codes.astype(np.float64) - zero, weights.astype(np.float64)).astype(np.int32)


def _affine(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    return x * tensors["scale"] + tensors["offset"]


def _conv2d(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    x = _padded(x.astype(np.float64), tensors["weight"].shape[1])
    return _fused_conv(x, tensors["weight"], tensors["bias"])


def _edge_conv2d(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    weight, bias = tensors["weight"], tensors["bias"]
    (h, w, _), (_, outputs, k, _, _) = x.shape, weight.shape
    x = _padded(x.astype(np.float64), k)
    out = np.empty((h, w, outputs), np.float32)
    for i, rows, columns in _edge_classes(h, w):
        part = x[rows.start : rows.stop + k - 1, columns.start : columns.stop + k - 1]
        out[rows, columns] = _fused_conv(part, weight[i], bias[i])
    return out


def _edge_classes(height: int, width: int) -> Iterator[tuple[int, slice, slice]]:
    """The classes of pixels that a picture has: number, rows, columns."""
    for i, (rows, columns) in enumerate(itertools.product(_edges(height), _edges(width))):
        if rows.start < rows.stop and columns.start < columns.stop:
            yield i, rows, columns


def _edges(size: int) -> tuple[slice, slice, slice]:
    """The first, the middle and the last rows or columns; of a single one, only the first."""
    last = max(size - 1, 1)
    return slice(0, 1), slice(1, last), slice(last, size)


def _quantize(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    v = _positive(x * np.float32(op.attrs["inv"]) + tensors["offset"])
    return np.rint(np.minimum(v, np.float32(op.attrs["levels"]))).astype(np.uint8)


def _qconv2d(op: Op, tensors: Tensors, a: np.ndarray) -> np.ndarray:
    acc = accumulate(a, weight_codes(op, tensors["weight"]), int(op.attrs["zero"]))
    return acc.astype(np.float32) * tensors["mul"] + tensors["bias"]


def _edge_qconv2d(op: Op, tensors: Tensors, a: np.ndarray) -> np.ndarray:
    zero, weights = int(op.attrs["zero"]), weight_codes(op, tensors["weight"])
    k, (h, w, _) = weights.shape[2], a.shape
    x = _padded(a.astype(np.float64) - zero, k)
    out = np.empty((h, w, weights.shape[1]), np.float32)
    for i, rows, columns in _edge_classes(h, w):
        part = x[rows.start : rows.stop + k - 1, columns.start : columns.stop + k - 1]
        acc = _conv(part, weights[i].astype(np.float64), pad=False).astype(np.int32)
        out[rows, columns] = acc.astype(np.float32) * tensors["mul"][i] + tensors["bias"][i]
    return out


def _relu(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    return _positive(x)


def _residual(op: Op, tensors: Tensors, skip: np.ndarray, branch: np.ndarray) -> np.ndarray:
    return skip * np.float32(op.attrs["gain"]) + branch


def _pixel_shuffle(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    r, (h, w, c) = int(op.attrs["upscale"]), x.shape
    x = x.reshape(h, w, c // (r * r), r, r)  # y, x, c, i, j
    return x.transpose(0, 3, 1, 4, 2).reshape(h * r, w * r, c // (r * r))


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "affine": _affine,
    "conv2d": _conv2d,
    "edge_conv2d": _edge_conv2d,
    "quantize": _quantize,
    "qconv2d": _qconv2d,
    "edge_qconv2d": _edge_qconv2d,
    "relu": _relu,
    "residual": _residual,
    "pixel_shuffle": _pixel_shuffle,
}


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.float32(0))


def _conv(x: np.ndarray, weight: np.ndarray, pad: bool = True) -> np.ndarray:
    """Correlation of float64 (H, W, I), (O, K, K, I) -> (H, W, O), one matmul per tap. pad: with zeros; else it is."""
    o, k, _, _ = weight.shape
    x = _padded(x, k) if pad else x
    h, w = x.shape[0] - k + 1, x.shape[1] - k + 1
    acc = np.zeros((h, w, o))
    for ky in range(k):
        for kx in range(k):
            acc += x[ky : ky + h, kx : kx + w] @ weight[:, ky, kx].T
    return acc


def _fused_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Padded float64 (H+K-1, W+K-1, I), float32 (O, K, K, I), float32 (O) -> float32 (H, W, O)."""
    outputs, k, _, _ = weight.shape
    h, w = x.shape[0] - k + 1, x.shape[1] - k + 1
    out = np.empty((h, w, outputs), np.float32)
    rows = max(1, SUMS_AT_ONCE // (w * outputs))
    for y in range(0, h, rows):
        out[y : y + rows] = _fused_sums(x[y : y + rows + k - 1], weight.astype(np.float64), bias)
    return out


def _fused_sums(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A band of `_fused_conv`; the weight in float64."""
    outputs, k, _, inputs = weight.shape
    h, w = x.shape[0] - k + 1, x.shape[1] - k + 1
    acc = np.broadcast_to(bias, (h, w, outputs))
    for ky, kx, i in np.ndindex(k, k, inputs):
        acc = fused_multiply_add(x[ky : ky + h, kx : kx + w, i, None], weight[:, ky, kx, i], acc)
    return acc


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c, rounded to float32 once. a and b hold float32 values as float64, c is float32.

    The product is exact in float64 and the sum is rounded, so rounding it again may go wrong; but only if the first
    rounding ends halfway between two float32 numbers. Such a sum, whose last 28 bits are 0, is moved one place to the
    side where the exact one lies. That is rounding to odd: Boldo and Melquiond, Emulation of FMA and Correctly Rounded
    Sums: Proved Algorithms Using Rounding to Odd, IEEE Transactions on Computers 57(4), 2008.
    """
    product = a * b
    total = product + c
    halfway = (total.view(np.int64) & (2**28 - 1)) == 0
    total[halfway] = _towards_exact(product[halfway], c[halfway].astype(np.float64), total[halfway])
    return total.astype(np.float32)


def _towards_exact(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """total = a + b, rounded; where that is not exact, its neighbour on the other side of a + b."""
    part = total - a
    error = (a - (total - part)) + (b - part)  # exact: TwoSum of Knuth; NaN where the sum is not finite
    return np.where(np.abs(error) > 0, np.nextafter(total, np.copysign(np.inf, error)), total)


def _padded(x: np.ndarray, kernel: int) -> np.ndarray:
    sides = (kernel // 2, kernel // 2)
    return np.pad(x, (sides, sides, (0, 0)))


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != IMAGE_CHANNELS or image.size == 0:
        raise ValueError(f"image is {image.dtype} {image.shape}, wanted float32 (H, W, {IMAGE_CHANNELS})")
