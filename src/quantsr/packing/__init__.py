"""Packed models: bits (codes to bytes), ops (what a network is made of), file (one file), cost (what it takes)."""

from quantsr.packing.bits import pack, unpack
from quantsr.packing.checks import check_model, check_program
from quantsr.packing.file import (
    ChecksumError,
    NotAModelError,
    TruncatedError,
    VersionError,
    dumps,
    loads,
    read,
    write,
)
from quantsr.packing.program import (
    FieldError,
    GraphError,
    LimitError,
    Op,
    PackedModel,
    PackedModelError,
    Program,
    TensorError,
)
from quantsr.packing.reach import receptive_radius

__all__ = [
    "ChecksumError",
    "FieldError",
    "GraphError",
    "LimitError",
    "NotAModelError",
    "Op",
    "PackedModel",
    "PackedModelError",
    "Program",
    "TensorError",
    "TruncatedError",
    "VersionError",
    "check_model",
    "check_program",
    "dumps",
    "loads",
    "pack",
    "read",
    "receptive_radius",
    "unpack",
    "write",
]
