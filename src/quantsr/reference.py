"""What every op means: a slow, exact, short numpy interpreter. Every other execution is compared with this one.

Float rule: each `*` and `+` is a float32 operation of its own, rounded half to even, never fused. Two sums of many
terms are exceptions: `qconv2d` sums integers and is exact, and `conv2d` sums in float64 and rounds once, so another
execution may differ from it by its own float32 rounding and no more.
Comparisons treat NaN as the least value: `relu` and `quantize` turn it into 0. The sign of a zero means nothing.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from quantsr.packing.ops import IMAGE, IMAGE_CHANNELS, Op, Program, weight_codes

Tensors = Mapping[str, np.ndarray]


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
    return (_conv(x.astype(np.float64), tensors["weight"].astype(np.float64)) + tensors["bias"]).astype(np.float32)


def _quantize(op: Op, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    v = _positive(x * np.float32(op.attrs["inv"]) + tensors["offset"])
    return np.rint(np.minimum(v, np.float32(op.attrs["levels"]))).astype(np.uint8)


def _qconv2d(op: Op, tensors: Tensors, a: np.ndarray) -> np.ndarray:
    acc = accumulate(a, weight_codes(op, tensors["weight"]), int(op.attrs["zero"]))
    return acc.astype(np.float32) * tensors["mul"] + tensors["bias"]


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
    "quantize": _quantize,
    "qconv2d": _qconv2d,
    "relu": _relu,
    "residual": _residual,
    "pixel_shuffle": _pixel_shuffle,
}


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.float32(0))


def _conv(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Correlation with zero padding: float64 (H, W, I), (O, K, K, I) -> (H, W, O), one matmul per tap."""
    (h, w, _), (o, k, _, _) = x.shape, weight.shape
    x = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    acc = np.zeros((h, w, o))
    for ky in range(k):
        for kx in range(k):
            acc += x[ky : ky + h, kx : kx + w] @ weight[:, ky, kx].T
    return acc


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != IMAGE_CHANNELS or image.size == 0:
        raise ValueError(f"image is {image.dtype} {image.shape}, wanted float32 (H, W, {IMAGE_CHANNELS})")
