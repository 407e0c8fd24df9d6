"""The packed file: one safetensors container, sealed by a checksum. docs/format.md is the contract.

    8 bytes    N, header length, little-endian
    N bytes    {"__metadata__":{"format":"quantsr","version":"1","sha256":"<64 hex>","info":"...","programs":"..."},
                "<tensor>":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}, ...}
    the rest   tensor data, without holes

The header's first characters are always the same, so they serve as the file's magic and the checksum sits at a fixed
place: it is verified before anything is parsed. It is the SHA-256 of the whole file with its own 64 characters read as
"0", so it covers every byte. It guards against damage, not against an author: the content is checked as hostile.

Refused alternatives: pickle in any form (runs code); a container of our own (one more parser to get wrong).
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from quantsr.files import write_atomically
from quantsr.packing.checks import MAX_OPS, check_model
from quantsr.packing.ops import format_version
from quantsr.packing.program import FieldError, LimitError, Op, PackedModel, PackedModelError, Program, TensorError

FORMAT = "quantsr"
VERSIONS = ("1", "2", "3")  # of equal length; a file has the first one that knows its kinds of op
MAX_FILE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20  # parsed JSON takes up to 40 times its text; 32 blocks at three depths are 85 kB

_MAGIC = f'{{"__metadata__":{{"format":"{FORMAT}","version":"'.encode()  # from byte 8
_BEFORE_SHA = tuple(_MAGIC + f'{version}","sha256":"'.encode() for version in VERSIONS)
_SHA = slice(8 + len(_BEFORE_SHA[0]), 8 + len(_BEFORE_SHA[0]) + 64)
_METADATA = ("format", "version", "sha256", "info", "programs")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_NAMES = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}


class NotAModelError(PackedModelError):
    """The file is something else."""

    remedy = "Choose a file that `quantsr pack` wrote."


class TruncatedError(PackedModelError):
    """The file ends too early."""

    remedy = "Copy or download it again."


class ChecksumError(PackedModelError):
    """The file's bytes changed after it was written."""

    remedy = "Copy or download it again."


class VersionError(PackedModelError):
    """The file is of a format version that this reader does not know."""

    remedy = "Update quantsr."


def write(path: str | os.PathLike[str], model: PackedModel) -> None:
    """Write the file whole or not at all: beside it, flushed to disk, then renamed over `path`.

    Raises a PackedModelError for a model that could not be read back, OSError from the file system; either way `path`
    holds what it held before.
    """
    write_atomically(path, dumps(model))


def read(path: str | os.PathLike[str]) -> PackedModel:
    """Read and check a file. Raises a PackedModelError for a bad one, OSError where it cannot be read at all."""
    with open(path, "rb") as file:
        return loads(file.read(MAX_FILE_BYTES + 1))


def dumps(model: PackedModel) -> bytes:
    """The file's bytes; equal models give equal bytes. Raises a PackedModelError for a model that breaks a rule."""
    check_model(model)
    # float32 first: its data then starts at a multiple of 4, as the header's padding makes the data start at one of 8
    names = sorted(model.tensors, key=lambda name: (model.tensors[name].dtype != np.float32, name))
    arrays = [model.tensors[name] for name in names]
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(format_version(model.programs)),
            "sha256": "0" * 64,
            "info": _to_json(model.info),
            "programs": _to_json({depth: _program_fields(program) for depth, program in model.programs.items()}),
        }
    }
    end = 0
    for name, array in zip(names, arrays, strict=True):
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _limit("header bytes", len(text), MAX_HEADER_BYTES)
    _limit("file bytes", 8 + len(text) + end, MAX_FILE_BYTES)
    data = bytearray(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        data += array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    data[_SHA] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def loads(data: bytes) -> PackedModel:
    """Bytes to a checked model; its arrays are read-only. Raises a PackedModelError, never anything else.

    Memory stays within a fixed multiple of len(data).
    """
    metadata = _header(data)["__metadata__"]
    if type(metadata) is not dict or tuple(metadata) != _METADATA or any(type(v) is not str for v in metadata.values()):
        raise FieldError.of("__metadata__", metadata, "texts named " + ", ".join(_METADATA))
    info = _typed("info", _from_json("info", metadata["info"]), dict)
    programs = _typed("programs", _from_json("programs", metadata["programs"]), dict)
    model = PackedModel(info, {depth: _program(depth, fields) for depth, fields in programs.items()}, _tensors(data))
    check_model(model)
    if metadata["version"] != str(format_version(model.programs)):
        raise FieldError.of("version", metadata["version"], f"'{format_version(model.programs)}', that of its ops")
    return model


def _header(data: bytes) -> dict[str, Any]:
    """The parsed header of a file whose checksum holds."""
    _limit("file bytes", len(data), MAX_FILE_BYTES)
    magic = data[8 : 8 + len(_MAGIC)]
    if not _MAGIC.startswith(magic):
        raise NotAModelError.of("first bytes", data[:16], "those of a packed model")
    if len(data) < _SHA.stop:
        raise TruncatedError.of("file size", len(data), f"at least {_SHA.stop} bytes")
    if data[8 : _SHA.start] not in _BEFORE_SHA:
        raise VersionError.of(
            "format version", data[8 + len(_MAGIC) : _SHA.start], ", ".join(VERSIONS[:-1]) + f" or {VERSIONS[-1]}"
        )
    size = int.from_bytes(data[:8], "little")
    _limit("header bytes", size, MAX_HEADER_BYTES)
    if 8 + size > len(data):
        raise TruncatedError.of("file size", len(data), f"at least {8 + size} bytes")
    _check_sha(data)
    header: dict[str, Any] = _typed("header", _from_json("header", data[8 : 8 + size]), dict)
    return header


def _check_sha(data: bytes) -> None:
    digest = hashlib.sha256(data[: _SHA.start] + b"0" * 64)
    digest.update(memoryview(data)[_SHA.stop :])
    if data[_SHA] != digest.hexdigest().encode():
        stored = data[_SHA].decode("ascii", "replace")
        raise ChecksumError.of("checksum (SHA-256)", stored, f"{digest.hexdigest()}, that of the bytes found")


def _tensors(data: bytes) -> dict[str, np.ndarray]:
    """Name -> read-only array. safetensors checks offsets, holes and sizes against the file before copying."""
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)
    except SafetensorError as error:
        raise TensorError.of("tensors", str(error), "a valid safetensors header") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise TensorError.of(f"tensor {name!r} dtype", entry["dtype"], "F32 or U8")
        dtype = _DTYPES[entry["dtype"]]
        try:
            array = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
        except (ValueError, OverflowError) as error:  # more axes, or longer ones, than numpy has
            raise TensorError.of(f"tensor {name!r} shape", entry["shape"], "one that numpy can hold") from error
        tensors[name] = array.astype(dtype.newbyteorder("="), copy=False)
        tensors[name].flags.writeable = False
    return tensors


def _program_fields(program: Program) -> dict[str, Any]:
    ops = [
        {"kind": op.kind, "inputs": op.inputs, "output": op.output, "attrs": op.attrs, "tensors": op.tensors}
        for op in program.ops
    ]
    return {"output": program.output, "ops": ops}


def _program(depth: str, fields: Any) -> Program:
    where = f"program {depth!r}"
    output, ops = _fields(where, fields, {"output": str, "ops": list})
    _limit(f"{where} ops", len(ops), MAX_OPS)
    return Program(tuple(_op(f"{where} op {i}", op) for i, op in enumerate(ops)), output)


def _op(where: str, fields: Any) -> Op:
    rule: dict[str, type] = {"kind": str, "inputs": list, "output": str, "attrs": dict, "tensors": dict}
    kind, inputs, output, attrs, tensors = _fields(where, fields, rule)
    for name in (*inputs, *tensors.values()):
        _typed(f"{where} name", name, str)
    return Op(kind, tuple(inputs), output, attrs, tensors)


def _fields(where: str, fields: Any, rule: dict[str, type]) -> list[Any]:
    """The values of exactly the keys of `rule`, in its order."""
    _typed(where, fields, dict)
    if set(fields) != set(rule):
        raise FieldError.of(f"{where} keys", sorted(fields), ", ".join(rule))
    return [_typed(f"{where} {key}", fields[key], kind) for key, kind in rule.items()]


def _typed(where: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise FieldError.of(where, value, f"a JSON value of type {kind.__name__}")
    return value


def _limit(where: str, value: int, most: int) -> None:
    if value > most:
        raise LimitError.of(where, value, f"at most {most}")


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _from_json(where: str, text: str | bytes) -> Any:
    """Strict JSON: no key twice, no NaN. UnicodeDecodeError and JSONDecodeError are ValueErrors."""
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FieldError.of(where, str(error), "strict JSON in UTF-8") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs][:10]}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"the constant {name}")
