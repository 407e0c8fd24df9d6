"""Every rule of a packed model, checked once, on the parsed form; a file adds only its container.

Sizes are Python integers and no array is allocated, so nothing overflows.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from quantsr.packing import bits
from quantsr.packing.ops import (
    ATTENTIONS,
    FILE_BITS,
    MADE_AT_LOAD,
    MAX_CHANNELS,
    MAX_WINDOW,
    MIN_MUL,
    OPS,
    QCONVS,
    Field,
    OpSpec,
    between,
    one_of,
    period,
)
from quantsr.packing.program import (
    DEPTHS,
    FLOAT_BITS,
    IMAGE,
    IMAGE_CHANNELS,
    MAX_NAME,
    SHORT,
    UPSCALES,
    Dims,
    FieldError,
    GraphError,
    LimitError,
    Op,
    PackedModel,
    Program,
    Step,
    TensorError,
    Value,
)

MAX_OPS = 2048  # per program; 32 residual blocks take about 200
MAX_TENSORS = 8192
MAX_READ = 2**26  # values that a program's ops prepare or read from tensors, shared ones as often as they are read
MAX_BLOCKS = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")

# Of attributes: what a file may hold of the values that an op can have.
_IN_FILES = {
    "weight_bits": one_of(*FILE_BITS),
    "act_bits": one_of(*FILE_BITS),
    "levels": between(2, 2 ** max(FILE_BITS) - 1),
    "zero": between(0, 2 ** max(FILE_BITS) - 1),
}

_TEXT = Field(str, lambda v: len(v) <= 1000, "a text of at most 1000 characters")
_WIDTH = one_of(*FILE_BITS, FLOAT_BITS)

INFO: dict[str, Field] = {
    "name": Field(str, lambda v: 0 < len(v) <= 100, "a text of 1 to 100 characters"),
    "architecture": _TEXT,  # "quantsr-c"
    "upscale": one_of(*UPSCALES),
    "channels": between(1, MAX_CHANNELS),  # of the trunk
    "blocks": between(0, MAX_BLOCKS),  # of the full network
    "upsampler": _TEXT,
    "weight_bits": _WIDTH,  # the widest of all qconv2d ops; 32 when there is none
    "act_bits": _WIDTH,
    "quantizer": _TEXT,
    "placement": _TEXT,  # which layers are at low bit width, by name of the rule
    "quantized_layers": Field(list, lambda v: all(type(x) is str for x in v), "a list of layer names"),
    "depths": Field(dict, lambda v: all(type(x) is list for x in v.values()), "block indices per program"),
    "parameters": between(0, 2**53),  # weights and biases of the full network
    "training": Field(dict, lambda v: True, "an object"),  # free form but for its stages: how the weights came about
    "licence": _TEXT,
}


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
    stages = info["training"].get("stages", [])
    if type(stages) is not list or any(type(stage) is not dict for stage in stages):
        raise FieldError.of("info training stages", stages, "a list of objects")


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
                raise GraphError.of(f"{step.op} zero", zero, "the one of the other readers of its codes")
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


def trace(program: Program, tensors: Mapping[str, np.ndarray], channels: int = IMAGE_CHANNELS) -> Iterator[Step]:
    """Walk a program without running it: each op with its bound letters and values. Raises a PackedModelError.

    channels: of the image.
    """
    values = {IMAGE: Value(channels)}
    for op in program.ops:
        spec = _check_op(op)
        inputs = tuple(_read(op, name, values, spec) for name in op.inputs)
        dims = {"C": inputs[0].channels, **spec.dims(op, inputs[0])}
        for role, (dtype, letters) in spec.tensors.items():
            _bind(op, role, dtype, letters, tensors, dims)
        if op.output in values:
            raise GraphError.of(f"{op} output", op.output, "a name not used before")
        values[op.output] = spec.infer(op, inputs, dims)
        yield Step(op, dims, inputs, values[op.output])


def _prepared(op: Op) -> int:
    """The most values that an engine makes of an attention's biases, for all parts of windows that there are.

    For windows below 15 pixels what it pads its arrays with comes on top, 32 values for each head, column and height.
    """
    return 8 * int(op.attrs["heads"]) * int(op.attrs["window"]) ** 3 if op.kind in ATTENTIONS else 0


def _check_op(op: Op) -> OpSpec:
    """The op's kind, once its own fields are known to be right."""
    if op.kind not in OPS:
        raise FieldError.of(f"op {SHORT.repr(op.output)} kind", op.kind, "one of " + ", ".join(OPS))
    spec = OPS[op.kind]
    _check_name("value", op.output)
    if len(op.inputs) != spec.inputs:
        raise FieldError.of(f"{op} inputs", op.inputs, f"{spec.inputs} names")
    _check_fields(f"{op} attrs", op.attrs, spec.attrs)
    _check_keys(f"{op} tensors", op.tensors, required=tuple(spec.tensors), allowed=tuple(spec.tensors))
    return spec


def _read(op: Op, name: str, values: Mapping[str, Value], spec: OpSpec) -> Value:
    if name not in values:
        raise GraphError.of(f"{op} input", name, f"{IMAGE!r} or the output of an earlier op")
    if bool(values[name].levels) != spec.reads_codes:
        raise GraphError.of(f"{op} input {name!r}", values[name], "codes" if spec.reads_codes else "float32")
    return values[name]


def _bind(op: Op, role: str, dtype: str, letters: str, tensors: Mapping[str, np.ndarray], dims: Dims) -> None:
    """Check a tensor's dtype and shape; letters met for the first time take their value from it."""
    where = f"{op} {role}"
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
        raise TensorError.of(f"{step.op} weight", str(error), "zero padding bits") from error


def _check_mul(step: Step, tensors: Mapping[str, np.ndarray]) -> None:
    mul = np.abs(tensors[step.op.tensors["mul"]])
    if ((mul > 0) & (mul < MIN_MUL)).any():
        raise TensorError.of(f"{step.op} mul", float(mul[mul > 0].min()), f"0, or at least {MIN_MUL} in size")


def _check_made_at_load(program: Program) -> None:
    """No file has what `packing.fast` makes."""
    for op in program.ops:
        if op.kind in MADE_AT_LOAD:
            raise FieldError.of(f"op {op.output!r} kind", op.kind, "a kind that a file may hold")
        for key in sorted(_IN_FILES.keys() & op.attrs.keys()):
            rule, value = _IN_FILES[key], op.attrs[key]
            if type(value) is not rule.type or not rule.allowed(value):
                raise FieldError.of(f"{op} {key}", value, f"{rule.type.__name__}, {rule.wanted} in a file")


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
