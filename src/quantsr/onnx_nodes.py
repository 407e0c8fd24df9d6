"""The nodes and constants of an ONNX graph, and how codes are held in it. Needs the package `onnx`."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from ml_dtypes import iinfo, int2, int4, uint2, uint4
from onnx import helper, numpy_helper

QONNX = "qonnx.custom_op.general"  # the domain of Quant
PLANES, PIXELS = "planes", "pixels"  # layouts of values: (1, C, H, W), and (1, H, W, C) within transformers


@dataclass(frozen=True)
class Style:
    """opset, ir_version: no newer than the style needs. weight, act: how codes are held, None for Quant nodes."""

    opset: int = 17
    ir_version: int = 8
    weight: Any = np.int8
    act: Any = np.uint8

    @property
    def domains(self) -> list[onnx.OperatorSetIdProto]:
        own = [] if self.weight else [helper.make_opsetid(QONNX, 1)]
        return [helper.make_opsetid("", self.opset), *own]


STYLES = {
    "qdq-int8": Style(),
    "int4": Style(opset=21, ir_version=10, weight=int4, act=uint4),
    "int2": Style(opset=25, ir_version=13, weight=int2, act=uint2),
    "qonnx": Style(weight=None, act=None),
    "float": Style(),
}


class Nodes:
    """What has been made of a graph so far. Each value and each constant has a name of its own."""

    def __init__(self, style: Style, inputs: Set[str]) -> None:
        self.style = style
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.named = set(inputs)  # values
        self.layouts: dict[str, str] = {}  # of values that are not PLANES
        self.turned: dict[str, str] = {}  # values in their other layout

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        _require_new(output, self.named)
        _require_new(output, self.constants.keys())
        self.named.add(output)
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        """Of one meaning wherever it is used, so that one may serve all."""
        _require_new(name, self.named)
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def layout(self, value: str) -> str:
        return self.layouts.get(value, PLANES)

    def made(self, value: str, layout: str) -> None:
        if layout != PLANES:
            self.layouts[value] = layout

    def turn(self, value: str, layout: str) -> str:
        """The value in this layout."""
        if self.layout(value) == layout:
            return value
        if value not in self.turned:
            perm = [0, 2, 3, 1] if layout == PIXELS else [0, 3, 1, 2]
            self.turned[value] = self.node("Transpose", [value], f"{value}.{layout}", perm=perm)
        return self.turned[value]

    def plus(self, value: str, offset: np.ndarray, output: str, layout: str) -> str:
        """value + offset[c]; `value` itself where there is nothing to add."""
        if not offset.any():
            return value
        return self.node("Add", [value, self.constant(f"{output}.offset", per_channel(offset, layout))], output)

    def times(self, value: str, scale: Any, output: str, layout: str) -> str:
        if np.all(scale == 1):
            return value
        return self.node("Mul", [value, self.constant(f"{output}.scale", per_channel(scale, layout))], output)

    def dequantized(self, codes: np.ndarray, scale: np.ndarray, output: str, axis: int) -> str:
        """codes * scale, a scale for each index of the axis."""
        _require_room(output, int(codes.min()), int(codes.max()), self.style.weight)
        stored = self.constant(f"{output}.codes", codes.astype(self.style.weight))
        grid = [self.constant(f"{output}.scale", scale)]
        grid.append(self.constant(f"{output}.zero", np.zeros(len(scale), self.style.weight)))
        return self.node("DequantizeLinear", [stored, *grid], output, axis=axis)

    def rounded(self, value: str, step: np.float32, zero: int, levels: int, name: str) -> str:
        """To the nearest of -zero .. levels - zero steps."""
        bits, scale = levels.bit_length(), self.constant(f"{name}.step", step)
        if self.style.act is not None or levels < 2**bits - 1:
            value = self.clip(value, np.float32(-zero * step), np.float32((levels - zero) * step), name)
        if self.style.act is None:
            signed = zero == 2 ** (bits - 1)
            origin = self.constant(f"{name}.zero", np.float32(0 if signed else zero))
            self.quant([value, scale, origin], name, bits, signed=signed)
            return name
        _require_room(name, 0, levels, self.style.act)
        grid = [scale, self.constant(f"{name}.zero", np.asarray(zero).astype(self.style.act))]
        value = self.node("QuantizeLinear", [value, *grid], f"{name}.codes")
        return self.node("DequantizeLinear", [value, *grid], name)

    def clip(self, value: str, low: np.float32, high: np.float32, name: str) -> str:
        least, most = self.constant(f"{name}.low", low), self.constant(f"{name}.high", high)
        if self.style.act in (uint4, uint2):  # ONNX Runtime fails on a Clip or Relu right before such a QuantizeLinear
            value = self.node("Max", [value, least], f"{name}.at_least")
            return self.node("Min", [value, most], f"{name}.clipped")
        return self.node("Clip", [value, least, most], f"{name}.clipped")

    def quant(self, inputs: list[str], output: str, bits: int, *, signed: bool) -> None:
        """inputs: value, scale, zero point. output = (round(clip(value / scale + zero)) - zero) * scale."""
        width = self.constant(f"bits.{bits}", np.float32(bits))
        modes = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
        self.node("Quant", [*inputs, width], output, domain=QONNX, **modes)


def _require_new(name: str, taken: Set[str]) -> None:
    """Raises ValueError for a name that the graph has already."""
    if name in taken:
        raise ValueError(f"{name}: got this name twice in one graph, wanted each value's and constant's own")


def _require_room(name: str, low: int, high: int, kind: Any) -> None:
    """Raises ValueError if the type cannot hold codes from low to high."""
    room = iinfo(kind)
    if low < room.min or high > room.max:
        raise ValueError(
            f"{name}: got codes {low} to {high}, wanted {room.min} to {room.max} as {np.dtype(kind).name} "
            "holds; choose another style"
        )


def per_channel(array: Any, layout: str) -> np.ndarray:
    """A scalar as it is, a value per channel for broadcasting."""
    array = np.asarray(array, np.float32)
    return array if array.ndim == 0 or layout == PIXELS else array.reshape(1, -1, 1, 1)
