"""The op kinds. The table OPS says all that is known of a kind without running it; `quantsr.reference` says what each
computes.

Tensor shapes are written in letters: C channels of the op's (first) input, O output channels, K kernel side, P packed
bytes, E classes of pixels by their place at the edges, R pairs of rows times pairs of columns by distance, H heads.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantsr.packing import bits
from quantsr.packing.program import (
    UPSCALES,
    Dims,
    FieldError,
    GraphError,
    LimitError,
    Op,
    Program,
    TensorError,
    Value,
)

EDGES = 3  # classes of rows, and of columns: first, middle, last
FILE_BITS = (2, 3, 4)  # widths of codes in a file; `packing.fast` makes 8-bit ones at load
QCONVS = ("qconv2d", "odd_qconv2d", "edge_qconv2d")  # kinds with weight codes
ATTENTIONS = ("window_attention", "qwindow_attention")
MADE_AT_LOAD = ("edge_qconv2d",)  # kinds that no file holds
ODD_BITS = (2, 3)  # widths of odd codes: 2*w + 1 must fit the 4 bits of the engine's weights

# 1024 channels * 3*3 taps * 15 * 8 = 1,105,920 < 2**24: at 4 bits every accumulator is exact as int32 and as float32.
# At 8 bits, 1024 * 5*5 * 255 * 128 < 2**31: exact as int32.
MAX_CHANNELS = 1024
MAX_CODE = 2 ** max(bits.BITS) - 1
MAX_WINDOW = 32  # pixels on a side
# Of attention on codes: a sum over 256 channels or pixels is at most 256 * 15 * 15 < 2**24, exact as int32 and as
# float32; and 64 pairs of products of 15 * 15 fit the 16 bits in which a kernel may add them up.
MAX_CODE_WINDOW, MAX_CODE_DEPTH, MAX_ATTENTION_CODE = 16, 256, 15
MIN_MUL = 2.0**-100  # fast kernels divide mul by a power of two, which must be exact


@dataclass(frozen=True)
class Field:
    """Type and range of a scalar or an info entry."""

    type: type
    allowed: Callable[[Any], bool]
    wanted: str


def one_of(*choices: int) -> Field:
    return Field(int, lambda v: v in choices, "one of " + ", ".join(map(str, choices)))


def between(low: int, high: int) -> Field:
    return Field(int, lambda v: low <= v <= high, f"{low} to {high}")


def _is_float32(v: float) -> bool:
    return math.isfinite(v) and abs(v) <= float(np.finfo(np.float32).max) and float(np.float32(v)) == v


_REAL = Field(float, _is_float32, "a finite float32 value")
_POSITIVE = Field(float, lambda v: v > 0 and _is_float32(v), "a finite float32 value above 0")
_NONZERO = Field(float, lambda v: v != 0 and _is_float32(v), "a finite float32 value other than 0")


def _same(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    return inputs[0]


def _conv2d(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    if dims["K"] not in (1, 3, 5):
        raise TensorError.of(f"{op} weight", f"kernel {dims['K']}", "1, 3 or 5")
    if not 1 <= dims["O"] <= MAX_CHANNELS:
        raise LimitError.of(f"{op} output channels", dims["O"], f"1 to {MAX_CHANNELS}")
    return replace(inputs[0], channels=dims["O"])


def _edge_conv2d(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    if dims["E"] != EDGES**2:
        raise TensorError.of(f"{op} weight", f"{dims['E']} kernels", f"{EDGES**2}, one per class of pixels")
    return _conv2d(op, inputs, dims)


def _quantize(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    return replace(inputs[0], levels=int(op.attrs["levels"]))


def _qconv2d(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, attrs = inputs[0], op.attrs
    if attrs["in_channels"] != source.channels:
        raise GraphError.of(f"{op} in_channels", attrs["in_channels"], f"{source.channels} as its input has")
    if source.levels.bit_length() != attrs["act_bits"]:
        raise GraphError.of(f"{op} act_bits", attrs["act_bits"], f"the width of codes 0 to {source.levels}")
    if attrs["zero"] > source.levels:
        raise FieldError.of(f"{op} zero", attrs["zero"], f"a code, 0 to {source.levels}")
    return replace(source, channels=dims["O"], levels=0)


def _qconv2d_dims(op: Op, source: Value) -> Dims:
    """O, K and P: the packed size of (O, K, K, C) codes."""
    o, k = int(op.attrs["out_channels"]), int(op.attrs["kernel"])
    return {"O": o, "K": k, "P": bits.packed_size(o * k * k * source.channels, int(op.attrs["weight_bits"]))}


def _edge_qconv2d_dims(op: Op, source: Value) -> Dims:
    """The same for (E, O, K, K, C) codes."""
    dims = _qconv2d_dims(op, source)
    count = EDGES**2 * dims["O"] * dims["K"] ** 2 * source.channels
    return dims | {"E": EDGES**2, "P": bits.packed_size(count, int(op.attrs["weight_bits"]))}


def _qconv2d_attrs(*kernels: int, weight_bits: tuple[int, ...] = bits.BITS) -> dict[str, Field]:
    return {
        "in_channels": between(1, MAX_CHANNELS),
        "out_channels": between(1, MAX_CHANNELS),
        "kernel": one_of(*kernels),
        "weight_bits": one_of(*weight_bits),
        "act_bits": one_of(*bits.BITS),
        "zero": between(0, MAX_CODE),
    }


def _residual(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    if inputs[0] != inputs[1]:
        raise GraphError.of(f"{op} inputs", inputs, "two values of the same channels and resolution")
    return inputs[0]


def _pixel_shuffle(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, r = inputs[0], int(op.attrs["upscale"])
    if source.channels % (r * r):
        raise GraphError.of(f"{op} channels", source.channels, f"a multiple of {r * r}")
    if source.factor * r > max(UPSCALES):
        raise LimitError.of(f"{op} resolution factor", source.factor * r, f"at most {max(UPSCALES)}")
    return replace(source, channels=source.channels // (r * r), factor=source.factor * r)


def _pad(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source = inputs[0]
    if (source.factor, source.multiple) != (1, 1):
        raise GraphError.of(f"{op} input", source, "a value of the image's size")
    return replace(source, multiple=int(op.attrs["multiple"]))


def _crop(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, like = inputs
    if (like.factor, like.multiple) != (1, 1):
        raise GraphError.of(f"{op} second input", like, "a value of the image's size")
    if op.attrs["factor"] != source.factor:
        raise GraphError.of(f"{op} factor", op.attrs["factor"], f"{source.factor} as its input has")
    return replace(source, multiple=1)


def _window_attention(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    """Of either kind."""
    source, window = inputs[0], int(op.attrs["window"])
    if source.channels % (3 * dims["H"]):
        raise GraphError.of(f"{op} channels", source.channels, f"a multiple of 3 * {dims['H']} heads")
    if source.factor != 1 or source.multiple % window:
        raise GraphError.of(f"{op} input", source, f"the image's size, padded to multiples of {window}")
    if op.attrs["shift"] >= window:
        raise FieldError.of(f"{op} shift", op.attrs["shift"], f"less than the window, {window}")
    return replace(source, channels=source.channels // 3, levels=0)


def _qwindow_attention(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    levels, attrs = inputs[0].levels, op.attrs
    if levels > MAX_ATTENTION_CODE:
        raise GraphError.of(f"{op} input", f"codes up to {levels}", f"codes up to {MAX_ATTENTION_CODE}")
    for key in ("query_zero", "key_zero", "value_zero", "softmax_zero"):
        most = attrs["softmax_levels"] if key == "softmax_zero" else levels
        if attrs[key] > most:
            raise FieldError.of(f"{op} {key}", attrs[key], f"a code, 0 to {most}")
    result = _window_attention(op, inputs, dims)
    if result.channels > dims["H"] * MAX_CODE_DEPTH:
        raise LimitError.of(f"{op} channels of a head", result.channels // dims["H"], f"at most {MAX_CODE_DEPTH}")
    return result


def _window_attention_dims(op: Op, source: Value) -> Dims:
    return {"R": (2 * int(op.attrs["window"]) - 1) ** 2, "H": int(op.attrs["heads"])}


@dataclass(frozen=True)
class OpSpec:
    """What an op of a kind needs (see the head of this file for the letters of tensor shapes)."""

    infer: Callable[[Op, tuple[Value, ...], Dims], Value]  # its output; raises where the inputs do not fit
    inputs: int = 1
    attrs: Mapping[str, Field] = field(default_factory=dict)
    tensors: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # role -> dtype, shape in letters
    dims: Callable[[Op, Value], Dims] = lambda op, source: {}  # letters that follow from attributes and input
    reads_codes: bool = False
    since: int = 1  # version of the format


OPS: dict[str, OpSpec] = {
    # y = x*scale[c] + offset[c]
    "affine": OpSpec(_same, tensors={"scale": ("float32", "C"), "offset": ("float32", "C")}),
    # same size, stride 1, zero padding K // 2
    "conv2d": OpSpec(_conv2d, tensors={"weight": ("float32", "OKKC"), "bias": ("float32", "O")}),
    # conv2d with weights of the pixel's class: 3 * class of its row + class of its column, each 0 in the first row or
    # column, else 2 in the last, else 1
    "edge_conv2d": OpSpec(_edge_conv2d, tensors={"weight": ("float32", "EOKKC"), "bias": ("float32", "EO")}),
    # a = uint8(round(min(max(x*inv + offset[c], 0), levels))), halves to even
    "quantize": OpSpec(
        _quantize,
        attrs={"inv": _NONZERO, "levels": between(2, MAX_CODE)},
        tensors={"offset": ("float32", "C")},
    ),
    # acc[o] = sum (a - zero)*w, padding a = zero; y = float(acc)*mul[o] + bias[o]
    "qconv2d": OpSpec(
        _qconv2d,
        attrs=_qconv2d_attrs(1, 3),
        tensors={"weight": ("uint8", "P"), "mul": ("float32", "O"), "bias": ("float32", "O")},
        dims=_qconv2d_dims,
        reads_codes=True,
    ),
    # qconv2d with weights 2*w + 1: the codes of a mid-rise quantizer, in units of half its step
    "odd_qconv2d": OpSpec(
        _qconv2d,
        attrs=_qconv2d_attrs(1, 3, weight_bits=ODD_BITS),
        tensors={"weight": ("uint8", "P"), "mul": ("float32", "O"), "bias": ("float32", "O")},
        dims=_qconv2d_dims,
        reads_codes=True,
        since=2,
    ),
    # qconv2d with weights, mul and bias of the pixel's class, as edge_conv2d
    "edge_qconv2d": OpSpec(
        _qconv2d,
        attrs=_qconv2d_attrs(1, 3, 5),
        tensors={"weight": ("uint8", "P"), "mul": ("float32", "EO"), "bias": ("float32", "EO")},
        dims=_edge_qconv2d_dims,
        reads_codes=True,
    ),
    # y = max(x, 0)
    "relu": OpSpec(_same),
    # y = inputs[0]*gain + inputs[1]
    "residual": OpSpec(_residual, inputs=2, attrs={"gain": _REAL}),
    # out[y*r + i, x*r + j, c] = in[y, x, c*r*r + i*r + j]
    "pixel_shuffle": OpSpec(_pixel_shuffle, attrs={"upscale": one_of(*UPSCALES)}),
    # continued to the right and below to a multiple, mirrored at the last pixel
    "pad": OpSpec(_pad, attrs={"multiple": between(2, MAX_WINDOW)}, since=2),
    # the part of inputs[0] that belongs to the pixels of inputs[1]
    "crop": OpSpec(_crop, inputs=2, attrs={"factor": one_of(1, *UPSCALES)}, since=2),
    # y = (x - mean) / sqrt(variance + epsilon) * scale[c] + offset[c], mean and variance of the pixel's channels
    "layer_norm": OpSpec(
        _same,
        attrs={"epsilon": _POSITIVE},
        tensors={"scale": ("float32", "C"), "offset": ("float32", "C")},
        since=2,
    ),
    # y = x/2 * (1 + erf(x / sqrt(2)))
    "gelu": OpSpec(_same, since=2),
    # attention of each pixel to those of its window, from queries, keys and values side by side
    "window_attention": OpSpec(
        _window_attention,
        attrs={
            "heads": between(1, MAX_CHANNELS),
            "window": between(1, MAX_WINDOW),
            "shift": between(0, MAX_WINDOW - 1),
            "scale": _REAL,
        },
        tensors={"position_bias": ("float32", "RH")},
        dims=_window_attention_dims,
        since=2,
    ),
    # the same from codes, with both products of codes, those of the softmax's results among them
    "qwindow_attention": OpSpec(
        _qwindow_attention,
        attrs={
            "heads": between(1, MAX_CHANNELS),
            "window": between(1, MAX_CODE_WINDOW),
            "shift": between(0, MAX_CODE_WINDOW - 1),
            "query_zero": between(0, MAX_ATTENTION_CODE),
            "key_zero": between(0, MAX_ATTENTION_CODE),
            "value_zero": between(0, MAX_ATTENTION_CODE),
            "score_mul": _REAL,
            "softmax_inv": _NONZERO,
            "softmax_levels": between(2, MAX_ATTENTION_CODE),
            "softmax_zero": between(0, MAX_ATTENTION_CODE),
            "mix_mul": _REAL,
        },
        tensors={"position_bias": ("float32", "RH"), "softmax_offset": ("float32", "H")},
        dims=_window_attention_dims,
        reads_codes=True,
        since=3,
    ),
}


def period(program: Program) -> int:
    """How many pixels apart a program treats places of the image alike: the least common multiple of its windows."""
    return math.lcm(*(int(op.attrs["window"]) for op in program.ops if op.kind in ATTENTIONS))


def format_version(programs: Mapping[str, Program]) -> int:
    """The first version of the format that has all kinds of op in use."""
    return max((OPS[op.kind].since for program in programs.values() for op in program.ops), default=1)


def bias_rows(window: int) -> np.ndarray:
    """Row of an attention's position biases for each pair of pixels of a window: int64 (T, T), T = window^2."""
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def weight_codes(op: Op, packed: np.ndarray) -> np.ndarray:
    """Weight codes of a qconv2d from its packed weight tensor: int8 (O, K, K, I) in -2**(b-1) .. 2**(b-1) - 1.

    Those of an odd_qconv2d are the odd numbers in -(2**b - 1) .. 2**b - 1, those of an edge_qconv2d (E, O, K, K, I).
    """
    o, i, k, b = (int(op.attrs[name]) for name in ("out_channels", "in_channels", "kernel", "weight_bits"))
    shape = (*([EDGES**2] if op.kind == "edge_qconv2d" else []), o, k, k, i)
    stored = bits.unpack(packed, b, math.prod(shape))
    codes = stored.astype(np.int16) - (1 << (b - 1))
    return (2 * codes + 1 if op.kind == "odd_qconv2d" else codes).astype(np.int8).reshape(shape)
