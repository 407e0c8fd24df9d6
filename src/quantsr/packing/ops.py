"""What a packed network is made of: the op kinds, the programs built from them, and the rules they obey.

A program is a flat list of ops in execution order. Its input is the value "image", float32 (H, W, 3), RGB in [0, 1];
its output is float32 (upscale*H, upscale*W, 3), not clamped. Every other value is named by the op that makes it. A
value is either float32 or activation codes, one uint8 per code in 0 .. levels.

The table OPS says all that is known of a kind without running it; `quantsr.reference` says what each computes. Tensor
shapes are written in letters: C channels of the op's (first) input, O output channels, K kernel side, P packed bytes, E
classes of pixels by their place at the edges, R pairs of rows times pairs of columns by distance, H heads.

All checks happen here, once, on the parsed form; a file adds only its container. Sizes are Python integers and no array
is allocated, so nothing overflows.
"""

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from quantsr.packing import bits

IMAGE = "image"  # the name of every program's input
IMAGE_CHANNELS = 3
DEPTHS = ("full", "half", "quarter")  # program names; a model has "full" and any of the others
UPSCALES = (2, 3, 4)
EDGES = 3  # classes of rows, and of columns: first, middle, last
FILE_BITS = (2, 3, 4)  # widths of codes in a file; `packing.fast` makes 8-bit ones at load
QCONVS = ("qconv2d", "odd_qconv2d", "edge_qconv2d")  # kinds with weight codes
ATTENTIONS = ("window_attention", "qwindow_attention")
MADE_AT_LOAD = ("edge_qconv2d",)  # kinds that no file holds
ODD_BITS = (2, 3)  # widths of odd codes: 2*w + 1 must fit the 4 bits of the engine's weights
FLOAT_BITS = 32  # weight_bits and act_bits of a model without low-bit layers

MAX_OPS = 2048  # per program; 32 residual blocks take about 200
MAX_TENSORS = 8192
MAX_READ = 2**26  # values that a program's ops prepare or read from tensors, shared ones as often as they are read
MAX_BLOCKS = 1024
MAX_NAME = 128  # characters
# 1024 channels * 3*3 taps * 15 * 8 = 1,105,920 < 2**24: at 4 bits every accumulator is exact as int32 and as float32.
# At 8 bits, 1024 * 5*5 * 255 * 128 < 2**31: exact as int32.
MAX_CHANNELS = 1024
MAX_CODE = 2 ** max(bits.BITS) - 1
MAX_WINDOW = 32  # pixels on a side
# Of attention on codes: a sum over 256 channels or pixels is at most 256 * 15 * 15 < 2**24, exact as int32 and as
# float32; and 64 pairs of products of 15 * 15 fit the 16 bits in which a kernel may add them up.
MAX_CODE_WINDOW, MAX_CODE_DEPTH, MAX_ATTENTION_CODE = 16, 256, 15
MIN_MUL = 2.0**-100  # fast kernels divide mul by a power of two, which must be exact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_SHORT = reprlib.Repr()  # what an error shows of a hostile value stays short
_SHORT.maxstring = _SHORT.maxother = 300


class PackedModelError(ValueError):
    """A packed model cannot be used; the subclass names the kind of defect."""

    remedy = "Write the file again with quantsr."

    @classmethod
    def of(cls, where: str, got: object, wanted: str) -> "PackedModelError":
        return cls(f"{where}: got {_SHORT.repr(got)}, wanted {wanted}. {cls.remedy}")


class LimitError(PackedModelError):
    """Larger than this reader accepts: bytes, header, tensors, ops, channels."""

    remedy = "Such a file is not a quantsr network."


class FieldError(PackedModelError):
    """A key is missing, unknown, of the wrong type or out of range."""


class GraphError(PackedModelError):
    """Ops do not fit together: undefined or repeated names, channels, resolution, codes where floats belong."""


class TensorError(PackedModelError):
    """A tensor is missing, unused, of the wrong dtype or shape, not finite, or has padding bits set."""


@dataclass(frozen=True)
class Op:
    """One step: `output` = kind(inputs) with scalar attributes and tensors (role -> name in PackedModel.tensors)."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, int | float] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Ops in execution order and the name of the value that is the result."""

    ops: tuple[Op, ...]
    output: str


@dataclass(frozen=True)
class PackedModel:
    """A network ready to run: `info` (see INFO), a program per depth, and the tensors that the programs share."""

    info: dict[str, Any]
    programs: dict[str, Program]
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Value:
    """What is known of a value before running: its height and width are `factor` times the image's, each of the image's
    first rounded up to a multiple of `multiple`.
    """

    channels: int
    factor: int = 1
    levels: int = 0  # 0: float32; else uint8 codes in 0 .. levels
    multiple: int = 1


Dims = dict[str, int]


@dataclass(frozen=True)
class Step:
    """An op with the letters of its tensor shapes bound and its values known."""

    op: Op
    dims: Dims
    inputs: tuple[Value, ...]
    output: Value


# --- the table ---


@dataclass(frozen=True)
class Field:
    """Type and range of a scalar or an info entry."""

    type: type
    allowed: Callable[[Any], bool]
    wanted: str


def _one_of(*choices: int) -> Field:
    return Field(int, lambda v: v in choices, "one of " + ", ".join(map(str, choices)))


def _between(low: int, high: int) -> Field:
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
        raise TensorError.of(f"{_where(op)} weight", f"kernel {dims['K']}", "1, 3 or 5")
    if not 1 <= dims["O"] <= MAX_CHANNELS:
        raise LimitError.of(f"{_where(op)} output channels", dims["O"], f"1 to {MAX_CHANNELS}")
    return replace(inputs[0], channels=dims["O"])


def _edge_conv2d(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    if dims["E"] != EDGES**2:
        raise TensorError.of(f"{_where(op)} weight", f"{dims['E']} kernels", f"{EDGES**2}, one per class of pixels")
    return _conv2d(op, inputs, dims)


def _quantize(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    return replace(inputs[0], levels=int(op.attrs["levels"]))


def _qconv2d(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, attrs = inputs[0], op.attrs
    if attrs["in_channels"] != source.channels:
        raise GraphError.of(f"{_where(op)} in_channels", attrs["in_channels"], f"{source.channels} as its input has")
    if source.levels.bit_length() != attrs["act_bits"]:
        raise GraphError.of(f"{_where(op)} act_bits", attrs["act_bits"], f"the width of codes 0 to {source.levels}")
    if attrs["zero"] > source.levels:
        raise FieldError.of(f"{_where(op)} zero", attrs["zero"], f"a code, 0 to {source.levels}")
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
        "in_channels": _between(1, MAX_CHANNELS),
        "out_channels": _between(1, MAX_CHANNELS),
        "kernel": _one_of(*kernels),
        "weight_bits": _one_of(*weight_bits),
        "act_bits": _one_of(*bits.BITS),
        "zero": _between(0, MAX_CODE),
    }


def _residual(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    if inputs[0] != inputs[1]:
        raise GraphError.of(f"{_where(op)} inputs", inputs, "two values of the same channels and resolution")
    return inputs[0]


def _pixel_shuffle(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, r = inputs[0], int(op.attrs["upscale"])
    if source.channels % (r * r):
        raise GraphError.of(f"{_where(op)} channels", source.channels, f"a multiple of {r * r}")
    if source.factor * r > max(UPSCALES):
        raise LimitError.of(f"{_where(op)} resolution factor", source.factor * r, f"at most {max(UPSCALES)}")
    return replace(source, channels=source.channels // (r * r), factor=source.factor * r)


def _pad(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source = inputs[0]
    if (source.factor, source.multiple) != (1, 1):
        raise GraphError.of(f"{_where(op)} input", source, "a value of the image's size")
    return replace(source, multiple=int(op.attrs["multiple"]))


def _crop(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    source, like = inputs
    if (like.factor, like.multiple) != (1, 1):
        raise GraphError.of(f"{_where(op)} second input", like, "a value of the image's size")
    if op.attrs["factor"] != source.factor:
        raise GraphError.of(f"{_where(op)} factor", op.attrs["factor"], f"{source.factor} as its input has")
    return replace(source, multiple=1)


def _window_attention(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    """Of either kind."""
    source, window = inputs[0], int(op.attrs["window"])
    if source.channels % (3 * dims["H"]):
        raise GraphError.of(f"{_where(op)} channels", source.channels, f"a multiple of 3 * {dims['H']} heads")
    if source.factor != 1 or source.multiple % window:
        raise GraphError.of(f"{_where(op)} input", source, f"the image's size, padded to multiples of {window}")
    if op.attrs["shift"] >= window:
        raise FieldError.of(f"{_where(op)} shift", op.attrs["shift"], f"less than the window, {window}")
    return replace(source, channels=source.channels // 3, levels=0)


def _qwindow_attention(op: Op, inputs: tuple[Value, ...], dims: Dims) -> Value:
    levels, attrs = inputs[0].levels, op.attrs
    if levels > MAX_ATTENTION_CODE:
        raise GraphError.of(f"{_where(op)} input", f"codes up to {levels}", f"codes up to {MAX_ATTENTION_CODE}")
    for key in ("query_zero", "key_zero", "value_zero", "softmax_zero"):
        most = attrs["softmax_levels"] if key == "softmax_zero" else levels
        if attrs[key] > most:
            raise FieldError.of(f"{_where(op)} {key}", attrs[key], f"a code, 0 to {most}")
    result = _window_attention(op, inputs, dims)
    if result.channels > dims["H"] * MAX_CODE_DEPTH:
        raise LimitError.of(
            f"{_where(op)} channels of a head", result.channels // dims["H"], f"at most {MAX_CODE_DEPTH}"
        )
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
        attrs={"inv": _NONZERO, "levels": _between(2, MAX_CODE)},
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
    "pixel_shuffle": OpSpec(_pixel_shuffle, attrs={"upscale": _one_of(*UPSCALES)}),
    # continued to the right and below to a multiple, mirrored at the last pixel
    "pad": OpSpec(_pad, attrs={"multiple": _between(2, MAX_WINDOW)}, since=2),
    # the part of inputs[0] that belongs to the pixels of inputs[1]
    "crop": OpSpec(_crop, inputs=2, attrs={"factor": _one_of(1, *UPSCALES)}, since=2),
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
            "heads": _between(1, MAX_CHANNELS),
            "window": _between(1, MAX_WINDOW),
            "shift": _between(0, MAX_WINDOW - 1),
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
            "heads": _between(1, MAX_CHANNELS),
            "window": _between(1, MAX_CODE_WINDOW),
            "shift": _between(0, MAX_CODE_WINDOW - 1),
            "query_zero": _between(0, MAX_ATTENTION_CODE),
            "key_zero": _between(0, MAX_ATTENTION_CODE),
            "value_zero": _between(0, MAX_ATTENTION_CODE),
            "score_mul": _REAL,
            "softmax_inv": _NONZERO,
            "softmax_levels": _between(2, MAX_ATTENTION_CODE),
            "softmax_zero": _between(0, MAX_ATTENTION_CODE),
            "mix_mul": _REAL,
        },
        tensors={"position_bias": ("float32", "RH"), "softmax_offset": ("float32", "H")},
        dims=_window_attention_dims,
        reads_codes=True,
        since=3,
    ),
}

# Of attributes: what a file may hold of the values that an op can have.
_IN_FILES = {
    "weight_bits": _one_of(*FILE_BITS),
    "act_bits": _one_of(*FILE_BITS),
    "levels": _between(2, 2 ** max(FILE_BITS) - 1),
    "zero": _between(0, 2 ** max(FILE_BITS) - 1),
}

_TEXT = Field(str, lambda v: len(v) <= 1000, "a text of at most 1000 characters")
_WIDTH = _one_of(*FILE_BITS, FLOAT_BITS)

INFO: dict[str, Field] = {
    "name": Field(str, lambda v: 0 < len(v) <= 100, "a text of 1 to 100 characters"),
    "architecture": _TEXT,  # "quantsr-c"
    "upscale": _one_of(*UPSCALES),
    "channels": _between(1, MAX_CHANNELS),  # of the trunk
    "blocks": _between(0, MAX_BLOCKS),  # of the full network
    "upsampler": _TEXT,
    "weight_bits": _WIDTH,  # the widest of all qconv2d ops; 32 when there is none
    "act_bits": _WIDTH,
    "quantizer": _TEXT,
    "placement": _TEXT,  # which layers are at low bit width, by name of the rule
    "quantized_layers": Field(list, lambda v: all(type(x) is str for x in v), "a list of layer names"),
    "depths": Field(dict, lambda v: all(type(x) is list for x in v.values()), "block indices per program"),
    "parameters": _between(0, 2**53),  # weights and biases of the full network
    "training": Field(dict, lambda v: True, "an object"),  # free form: how the weights came about
    "licence": _TEXT,
}

# --- the checks ---


def check_model(model: PackedModel) -> None:
    """Raise a PackedModelError unless info, every program and every tensor obey the rules and belong together."""
    check_info(model.info)
    _check_keys("programs", model.programs, required=("full",), allowed=DEPTHS)
    if len(model.tensors) > MAX_TENSORS:
        raise LimitError.of("number of tensors", len(model.tensors), f"at most {MAX_TENSORS}")
    for name in model.tensors:
        _check_name("tensor", name)
    used: set[str] = set()
    for program in model.programs.values():
        _check_made_at_load(program)
        check_program(program, model.tensors, model.info)
        used.update(name for op in program.ops for name in op.tensors.values())
    unused = sorted(set(model.tensors) - used)
    if unused:
        raise TensorError.of("tensors that no op uses", unused, "none")
    _check_info_of(model)


def check_info(info: Mapping[str, Any]) -> None:
    """Raise FieldError unless `info` has the keys of INFO with fitting values and can be written as JSON."""
    _check_fields("info", info, INFO)
    try:
        same = json.loads(json.dumps(info, ensure_ascii=False, allow_nan=False).encode()) == info
    except (TypeError, ValueError, RecursionError) as error:
        raise FieldError.of("info", str(error), "values that JSON and UTF-8 can hold") from error
    if not same:
        raise FieldError.of("info", info, "JSON types only: lists, not tuples; text keys")
    for depth, blocks in info["depths"].items():
        legal = all(type(b) is int and 0 <= b < info["blocks"] for b in blocks)
        if not legal or blocks != sorted(set(blocks)):
            raise FieldError.of(f"info depths {depth}", blocks, f"growing block indices below {info['blocks']}")


def check_program(program: Program, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> dict[str, Value]:
    """All values by name, or a PackedModelError: fields, names, shapes, dtypes, ranges, channels, resolution."""
    if not 1 <= len(program.ops) <= MAX_OPS:
        raise LimitError.of("number of ops", len(program.ops), f"1 to {MAX_OPS}")
    values = {IMAGE: Value(IMAGE_CHANNELS)}
    zeros: dict[str, int | float] = {}  # of each value of codes: its padding byte is one
    for step in trace(program, tensors):
        values[step.op.output] = step.output
        if "P" in step.dims:
            _check_padding(step, tensors)
            _check_mul(step, tensors)
            zero = step.op.attrs["zero"]
            if zeros.setdefault(step.op.inputs[0], zero) != zero:
                raise GraphError.of(f"{_where(step.op)} zero", zero, "the one of the other readers of its codes")
    if period(program) > MAX_WINDOW:
        raise LimitError.of("common multiple of windows", period(program), f"at most {MAX_WINDOW}")
    read = [name for op in program.ops for name in op.tensors.values()]
    amount = sum(tensors[name].size for name in read) + sum(map(_prepared, program.ops))
    if amount > MAX_READ:
        raise LimitError.of("values that ops read from tensors or prepare", amount, f"at most {MAX_READ}")
    for name in dict.fromkeys(read):  # each once, if shared
        _check_contents(name, tensors[name])
    wanted = Value(IMAGE_CHANNELS, info["upscale"])
    if values.get(program.output) != wanted:
        raise GraphError.of(f"output {program.output!r}", values.get(program.output), f"{wanted}")
    idle = set(values) - {name for op in program.ops for name in op.inputs} - {program.output}
    if idle:
        raise GraphError.of("values that nothing reads", sorted(idle), "none")
    return values


def trace(program: Program, tensors: Mapping[str, np.ndarray]) -> Iterator[Step]:
    """Walk a program without running it: each op with its bound letters and values. Raises a PackedModelError."""
    values = {IMAGE: Value(IMAGE_CHANNELS)}
    for op in program.ops:
        spec = _check_op(op)
        inputs = tuple(_read(op, name, values, spec) for name in op.inputs)
        dims = {"C": inputs[0].channels, **spec.dims(op, inputs[0])}
        for role, (dtype, letters) in spec.tensors.items():
            _bind(op, role, dtype, letters, tensors, dims)
        if op.output in values:
            raise GraphError.of(f"{_where(op)} output", op.output, "a name not used before")
        values[op.output] = spec.infer(op, inputs, dims)
        yield Step(op, dims, inputs, values[op.output])


def receptive_radius(program: Program, tensors: Mapping[str, np.ndarray]) -> int:
    """How many input pixels beyond its own an output pixel can see, in each direction.

    The pixels of the output that belong to input pixel (y, x) depend only on input pixels at most this far away. Kernel
    radii count in units of their own resolution; ceil(ceil(a/m)/n) = ceil(a/(m*n)) makes one rounding at the end exact.
    How far a pixel sees in a window depends on its place there, so places are followed along each axis, both ways.
    """
    steps, places = list(trace(program, tensors)), range(period(program))
    farthest = Fraction(0)
    for way in (1, -1):
        reach = {IMAGE: [Fraction(0) for _ in places]}  # of each value, by place modulo the period
        for step in steps:
            before = [max(reach[name][place] for name in step.op.inputs) for place in places]
            reach[step.op.output] = [_reach(step, place, way, before) for place in places]
        farthest = max(farthest, *reach[program.output])
    return math.ceil(farthest)


def _reach(step: Step, place: int, way: int, before: list[Fraction]) -> Fraction:
    """How far a pixel at a place sees one way, if the pixels that the op reads see as far as `before` says."""
    if step.op.kind in ATTENTIONS:
        window = int(step.op.attrs["window"])
        first = place - (place - int(step.op.attrs["shift"])) % window
        return max(way * (read - place) + before[read % len(before)] for read in range(first, first + window))
    pixels = step.dims.get("K", 1) // 2
    if "E" in step.dims:
        pixels = max(pixels, 1)  # a pixel's class depends on whether it has neighbours
    radius = Fraction(pixels, step.inputs[0].factor)
    whole = math.ceil(radius)
    return max(min(radius, Fraction(d)) + before[(place + way * d) % len(before)] for d in range(-whole, whole + 1))


def period(program: Program) -> int:
    """How many pixels apart a program treats places of the image alike: the least common multiple of its windows."""
    return math.lcm(*(int(op.attrs["window"]) for op in program.ops if op.kind in ATTENTIONS))


def format_version(programs: Mapping[str, Program]) -> int:
    """The first version of the format that has all kinds of op in use."""
    return max((OPS[op.kind].since for program in programs.values() for op in program.ops), default=1)


def weight_codes(op: Op, packed: np.ndarray) -> np.ndarray:
    """Weight codes of a qconv2d from its packed weight tensor: int8 (O, K, K, I) in -2**(b-1) .. 2**(b-1) - 1.

    Those of an odd_qconv2d are the odd numbers in -(2**b - 1) .. 2**b - 1, those of an edge_qconv2d (E, O, K, K, I).
    """
    o, i, k, b = (int(op.attrs[name]) for name in ("out_channels", "in_channels", "kernel", "weight_bits"))
    shape = (*([EDGES**2] if op.kind == "edge_qconv2d" else []), o, k, k, i)
    stored = bits.unpack(packed, b, math.prod(shape))
    codes = stored.astype(np.int16) - (1 << (b - 1))
    return (2 * codes + 1 if op.kind == "odd_qconv2d" else codes).astype(np.int8).reshape(shape)


def _prepared(op: Op) -> int:
    """The most values that an engine makes of an attention's biases, for all parts of windows that there are."""
    return 8 * int(op.attrs["heads"]) * int(op.attrs["window"]) ** 3 if op.kind in ATTENTIONS else 0


def _where(op: Op) -> str:
    return f"op {op.output!r} ({op.kind})"


def _check_op(op: Op) -> OpSpec:
    """The op's kind, once its own fields are known to be right."""
    if op.kind not in OPS:
        raise FieldError.of(f"op {_SHORT.repr(op.output)} kind", op.kind, "one of " + ", ".join(OPS))
    spec = OPS[op.kind]
    _check_name("value", op.output)
    if len(op.inputs) != spec.inputs:
        raise FieldError.of(f"{_where(op)} inputs", op.inputs, f"{spec.inputs} names")
    _check_fields(f"{_where(op)} attrs", op.attrs, spec.attrs)
    _check_keys(f"{_where(op)} tensors", op.tensors, required=tuple(spec.tensors), allowed=tuple(spec.tensors))
    return spec


def _read(op: Op, name: str, values: Mapping[str, Value], spec: OpSpec) -> Value:
    if name not in values:
        raise GraphError.of(f"{_where(op)} input", name, f"{IMAGE!r} or the output of an earlier op")
    if bool(values[name].levels) != spec.reads_codes:
        raise GraphError.of(f"{_where(op)} input {name!r}", values[name], "codes" if spec.reads_codes else "float32")
    return values[name]


def _bind(op: Op, role: str, dtype: str, letters: str, tensors: Mapping[str, np.ndarray], dims: Dims) -> None:
    """Check a tensor's dtype and shape; letters met for the first time take their value from it."""
    where = f"{_where(op)} {role}"
    if op.tensors[role] not in tensors:
        raise TensorError.of(where, op.tensors[role], "the name of a tensor in the file")
    array = tensors[op.tensors[role]]
    if array.dtype.name != dtype or array.ndim != len(letters):
        raise TensorError.of(where, f"{array.dtype} {array.shape}", f"{dtype} of {len(letters)} axes")
    shape = tuple(dims.setdefault(letter, size) for letter, size in zip(letters, array.shape, strict=True))
    if array.shape != shape:
        raise TensorError.of(where, array.shape, f"{shape}")


def _check_contents(name: str, array: np.ndarray) -> None:
    if not array.flags.c_contiguous:
        raise TensorError.of(f"tensor {name!r}", f"strides {array.strides}", "a C-contiguous array")
    if not np.isfinite(array).all():
        raise TensorError.of(f"tensor {name!r}", "NaN or infinity", "finite values")


def _check_padding(step: Step, tensors: Mapping[str, np.ndarray]) -> None:
    count = step.dims.get("E", 1) * step.dims["O"] * step.dims["K"] ** 2 * step.dims["C"]
    try:
        bits.check(tensors[step.op.tensors["weight"]], int(step.op.attrs["weight_bits"]), count)
    except ValueError as error:
        raise TensorError.of(f"{_where(step.op)} weight", str(error), "zero padding bits") from error


def _check_mul(step: Step, tensors: Mapping[str, np.ndarray]) -> None:
    mul = np.abs(tensors[step.op.tensors["mul"]])
    if ((mul > 0) & (mul < MIN_MUL)).any():
        raise TensorError.of(f"{_where(step.op)} mul", float(mul[mul > 0].min()), f"0, or at least {MIN_MUL} in size")


def _check_made_at_load(program: Program) -> None:
    """No file has what `packing.fast` makes."""
    for op in program.ops:
        if op.kind in MADE_AT_LOAD:
            raise FieldError.of(f"op {op.output!r} kind", op.kind, "a kind that a file may hold")
        for key in sorted(_IN_FILES.keys() & op.attrs.keys()):
            rule, value = _IN_FILES[key], op.attrs[key]
            if type(value) is not rule.type or not rule.allowed(value):
                raise FieldError.of(f"{_where(op)} {key}", value, f"{rule.type.__name__}, {rule.wanted} in a file")


def _check_info_of(model: PackedModel) -> None:
    """What info claims about the programs."""
    if set(model.info["depths"]) != set(model.programs):
        raise FieldError.of("info depths", sorted(model.info["depths"]), f"{sorted(model.programs)} as in programs")
    convs = [op for program in model.programs.values() for op in program.ops if op.kind in QCONVS]
    for key in ("weight_bits", "act_bits"):
        widest = max((int(op.attrs[key]) for op in convs), default=FLOAT_BITS)
        if model.info[key] != widest:
            raise FieldError.of(f"info {key}", model.info[key], f"{widest} as in the ops")


def _check_fields(where: str, fields: Mapping[str, Any], table: Mapping[str, Field]) -> None:
    _check_keys(where, fields, required=tuple(table), allowed=tuple(table))
    for key, rule in table.items():
        # `type is`, not isinstance: True is an int, and a numpy scalar would not survive the file.
        if type(fields[key]) is not rule.type or not rule.allowed(fields[key]):
            raise FieldError.of(f"{where} {key}", fields[key], f"{rule.type.__name__}, {rule.wanted}")


def _check_keys(where: str, fields: Mapping[str, Any], required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    unknown, missing = sorted(set(fields) - set(allowed), key=str), sorted(set(required) - set(fields))
    if unknown or missing:
        raise FieldError.of(f"{where} keys", f"unknown {unknown}, missing {missing}", ", ".join(allowed) or "none")


def _check_name(what: str, name: str) -> None:
    if type(name) is not str or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        wanted = f"at most {MAX_NAME} letters, digits, '_', '.', '/', '-', beginning with a letter or digit"
        raise FieldError.of(f"{what} name", name, wanted)
