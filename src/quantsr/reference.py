"""What every op means: a slow, exact, short numpy interpreter. Every other execution is compared with this one.

Float rule: each `*`, `+`, `/` and square root is a float32 operation of its own, rounded half to even, never fused.
Exceptions are `fma` where it is written, and two sums of many terms: `qconv2d` sums integers and is exact, and `conv2d`
starts from the bias and takes one fused multiply-add in float32 per kernel row, kernel column and input channel, in
this order; padding takes part as zeros. Comparisons treat NaN as the least value: `relu` and `quantize` turn it into 0.
The sign of a zero means nothing. docs/numerics.md tells each order of operations in words.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from quantsr import exact
from quantsr.exact import dot, exp2, fma, fused_multiply_add
from quantsr.packing.ops import bias_rows, weight_codes
from quantsr.packing.program import IMAGE, IMAGE_CHANNELS, Op, Program

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
    """One op on given inputs, each (H, W, C): float32, or uint8 codes where it reads them. Returns the same."""
    with np.errstate(over="ignore", invalid="ignore"):
        return STEPS[op.kind](op, {role: tensors[name] for role, name in op.tensors.items()}, *inputs)


def accumulate(codes: np.ndarray, weights: np.ndarray, zero: int) -> np.ndarray:
    """sum (a - zero)*w: codes uint8 (H, W, I), weights int8 (O, K, K, I) -> int32 (H, W, O). Padding is a = zero.

    A float64 matmul of integers is exact in any order while sums stay below 2**53; here they stay below 2**31.
    """
    return _conv(codes.astype(np.float64) - zero, weights.astype(np.float64)).astype(np.int32)


def accumulate_scores(op: Op, codes: np.ndarray) -> np.ndarray:
    """Of a qwindow_attention: sum (q - zero)*(k - zero) of uint8 (H, W, 3C) -> int32 (windows, heads, T, T), exact."""
    q, k, _ = _heads(op, codes).astype(np.float64)
    q, k = q - op.attrs["query_zero"], k - op.attrs["key_zero"]
    return (q @ k.swapaxes(2, 3)).astype(np.int32)


def accumulate_mixture(op: Op, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same of weights and values: uint8 (H, W, 3C), (windows, heads, T, T) -> int32 (windows, heads, T, D)."""
    v = _heads(op, codes)[2].astype(np.float64) - op.attrs["value_zero"]
    return ((weights.astype(np.float64) - op.attrs["softmax_zero"]) @ v).astype(np.int32)


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
    return _codes(x * np.float32(op.attrs["inv"]) + tensors["offset"], int(op.attrs["levels"]))


def _codes(x: np.ndarray, levels: int) -> np.ndarray:
    return np.rint(np.minimum(_positive(x), np.float32(levels))).astype(np.uint8)


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


def _pad(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        size, period = x.shape[axis], max(2 * (x.shape[axis] - 1), 1)
        at = np.arange(size + -size % int(op.attrs["multiple"])) % period
        x = x.take(np.minimum(at, period - at), axis)
    return x


def _crop(op: Op, tensors: Tensors, x: np.ndarray, like: np.ndarray) -> np.ndarray:
    factor = int(op.attrs["factor"])
    return x[: like.shape[0] * factor, : like.shape[1] * factor]


def _layer_norm(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    count = np.float32(x.shape[2])
    d = x - (dot(x, np.ones_like(x)) / count)[..., None]
    r = np.float32(1) / np.sqrt(dot(d, d) / count + np.float32(op.attrs["epsilon"]))
    return d * r[..., None] * tensors["scale"] + tensors["offset"]


def _gelu(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    return exact.gelu(x)


def _window_attention(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    q, k, v = _heads(op, x)  # (windows, heads, T, D)
    q = q * (np.float32(op.attrs["scale"]) * exact.LOG2_E)
    logits = np.broadcast_to(_biases(op, tensors), (*q.shape[:3], q.shape[2]))
    for i in range(q.shape[3]):
        logits = fma(q[..., :, None, i], k[..., None, :, i], logits)
    seen = _seen_by(op, x)
    weights = _weights(logits, seen)
    mixed = np.zeros(q.shape, np.float32)
    for j in range(q.shape[2]):
        mixed = np.where(seen[..., j, None], fma(weights[..., j, None], v[..., None, j, :], mixed), mixed)
    return _image_of(op, mixed * (np.float32(1) / _total(weights)), x)


def _qwindow_attention(op: Op, tensors: Tensors, a: np.ndarray) -> np.ndarray:
    scale = np.float32(op.attrs["score_mul"]) * exact.LOG2_E
    logits = fma(accumulate_scores(op, a).astype(np.float32), scale, _biases(op, tensors))
    seen = _seen_by(op, a)
    weights = _weights(logits, seen)
    factor = np.float32(op.attrs["softmax_inv"]) / _total(weights)
    offset = tensors["softmax_offset"][:, None, None]
    codes = _codes(fma(weights, factor, offset), int(op.attrs["softmax_levels"]))
    codes = np.where(seen, codes, np.uint8(op.attrs["softmax_zero"]))
    return _image_of(op, accumulate_mixture(op, a, codes).astype(np.float32) * np.float32(op.attrs["mix_mul"]), a)


def _heads(op: Op, x: np.ndarray) -> np.ndarray:
    """Queries, keys and values of the rolled image: (3, windows, heads, T, D)."""
    window, shift, heads = (int(op.attrs[name]) for name in ("window", "shift", "heads"))
    x = _windows(np.roll(x, (-shift, -shift), (0, 1)), window)  # (windows, T, 3C)
    return x.reshape(*x.shape[:2], 3, heads, -1).transpose(2, 0, 3, 1, 4)


def _image_of(op: Op, mixed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(windows, heads, T, D) rolled back to (H, W, C), as large as x."""
    window, shift = int(op.attrs["window"]), int(op.attrs["shift"])
    h, w, _ = x.shape
    mixed = mixed.transpose(0, 2, 1, 3).reshape(h // window, w // window, window, window, -1)
    return np.roll(mixed.swapaxes(1, 2).reshape(h, w, -1), (shift, shift), (0, 1))


def _biases(op: Op, tensors: Tensors) -> np.ndarray:
    """In powers of two, as logits are: (heads, T, T)."""
    return (tensors["position_bias"] * exact.LOG2_E)[bias_rows(int(op.attrs["window"]))].transpose(2, 0, 1)


def _total(weights: np.ndarray) -> np.ndarray:
    """Sums in the order of pixels: (windows, heads, T, 1)."""
    total = np.zeros((*weights.shape[:3], 1), np.float32)
    for j in range(weights.shape[3]):
        total = total + weights[..., j, None]
    return total


def _weights(logits: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """2^(logit - largest) of what a pixel sees, 0 of the rest: (windows, heads, T, T), (windows, 1, T, T)."""
    largest = np.where(seen & (logits == logits), logits, np.float32(-np.inf)).max(-1, keepdims=True)
    return np.where(seen, exp2(logits - largest), np.float32(0))


def _windows(x: np.ndarray, side: int) -> np.ndarray:
    """(H, W, C) -> (windows, side * side, C), row by row."""
    h, w, c = x.shape
    return x.reshape(h // side, side, w // side, side, c).swapaxes(1, 2).reshape(-1, side * side, c)


def _seen_by(op: Op, x: np.ndarray) -> np.ndarray:
    """Which pairs of pixels of a window lie on the same side of the image's border: (windows, 1, T, T)."""
    beyond = [np.arange(size) >= size - int(op.attrs["shift"]) for size in x.shape[:2]]
    part = 2 * beyond[0][:, None] + beyond[1]
    part = _windows(part[..., None], int(op.attrs["window"]))[:, None, :, 0]  # (windows, 1, T)
    return part[..., :, None] == part[..., None, :]


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "affine": _affine,
    "conv2d": _conv2d,
    "edge_conv2d": _edge_conv2d,
    "quantize": _quantize,
    "qconv2d": _qconv2d,
    "odd_qconv2d": _qconv2d,
    "edge_qconv2d": _edge_qconv2d,
    "relu": _relu,
    "residual": _residual,
    "pixel_shuffle": _pixel_shuffle,
    "pad": _pad,
    "crop": _crop,
    "layer_norm": _layer_norm,
    "gelu": _gelu,
    "window_attention": _window_attention,
    "qwindow_attention": _qwindow_attention,
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


def _padded(x: np.ndarray, kernel: int) -> np.ndarray:
    sides = (kernel // 2, kernel // 2)
    return np.pad(x, (sides, sides, (0, 0)))


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != IMAGE_CHANNELS or image.size == 0:
        raise ValueError(f"image is {image.dtype} {image.shape}, wanted float32 (H, W, {IMAGE_CHANNELS})")
