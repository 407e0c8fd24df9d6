"""Packed ops -> ONNX, for other runtimes. Needs the package `onnx`.

Two graphs of the same file. Input `image`: float32 (1, 3, height, width), RGB in [0, 1]; output `upscaled`: float32
(1, 3, upscale*height, upscale*width), not clamped. Height and width are free.

qdq: the packed network itself. Before each low-bit convolution: add the shift, clip to the range of the codes,
  QuantizeLinear to uint8, DequantizeLinear; weights are int8 codes and a DequantizeLinear with a scale per output
  channel. Codes of 2 to 4 bits are held in bytes, since no runtime computes with narrower ones. It differs from
  `reference` by float rounding, and, where that flips a code, by a step.
float: the plain float network of `dequantize`; another function, for timing and for the quantizers of others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantsr.dequantize import without_quantizers
from quantsr.files import write_atomically
from quantsr.packing.ops import IMAGE, IMAGE_CHANNELS, QCONVS, Op, PackedModel, Program, weight_codes

LOW_BIT = ("qdq", "float")
INPUT, OUTPUT = IMAGE, "upscaled"
OPSET, IR_VERSION = 17, 8  # old enough for every runtime of the last years, new enough for scales per channel

Tensors = Mapping[str, np.ndarray]


def export(packed: PackedModel, depth: str, path: str | Path, low_bit: str = "qdq") -> None:
    """Writes the program of a depth as one ONNX file. Raises ValueError for an unknown depth or kind of graph."""
    if depth not in packed.programs:
        raise ValueError(f"depth: wanted one of {', '.join(packed.programs)}, got {depth!r}")
    write_atomically(path, graph(packed.programs[depth], packed.tensors, IMAGE_CHANNELS, low_bit).SerializeToString())


def graph(program: Program, tensors: Tensors, channels: int, low_bit: str) -> onnx.ModelProto:
    """The same, in memory, of any list of ops whose input `image` has `channels` channels."""
    if low_bit not in LOW_BIT:
        raise ValueError(f"low_bit: wanted one of {', '.join(LOW_BIT)}, got {low_bit!r}")
    if low_bit == "float":
        program, tensors = without_quantizers(program, tensors)
    return _Graph(program, tensors).model(program.output, channels)


class _Graph:
    """Emits nodes; values keep the names that the program gives them."""

    def __init__(self, program: Program, tensors: Tensors) -> None:
        self.tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.zeros = {op.inputs[0]: int(op.attrs["zero"]) for op in program.ops if op.kind in QCONVS}
        self.steps: dict[str, float] = {}  # of each value of codes: the scale
        for op in program.ops:
            if op.kind not in _RULES:
                raise ValueError(f"op {op.output!r}: wanted one of {', '.join(_RULES)}, got {op.kind!r}")
            _RULES[op.kind](self, op)

    def model(self, output: str, channels: int) -> onnx.ModelProto:
        self.node("Identity", [output], OUTPUT)
        shape: list[Any] = [1, channels, "height", "width"]
        graph = helper.make_graph(
            self.nodes,
            "quantsr",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, None, None, None])],
            list(self.constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="quantsr")

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def plus(self, value: str, offset: np.ndarray, output: str) -> str:
        """value + offset[c]; `value` itself where there is nothing to add."""
        if not offset.any():
            return value
        return self.node("Add", [value, self.constant(f"{output}.offset", _per_channel(offset))], output)

    def times(self, value: str, scale: Any, output: str) -> str:
        if np.all(scale == 1):
            return value
        return self.node("Mul", [value, self.constant(f"{output}.scale", _per_channel(scale))], output)

    def affine(self, op: Op) -> None:
        value = self.times(op.inputs[0], self.tensors[op.tensors["scale"]], f"{op.output}.scaled")
        value = self.plus(value, self.tensors[op.tensors["offset"]], f"{op.output}.shifted")
        self.node("Identity", [value], op.output)

    def conv2d(self, op: Op) -> None:
        weight = self.tensors[op.tensors["weight"]].transpose(0, 3, 1, 2)  # (O, I, K, K)
        self.conv(op, op.inputs[0], self.constant(op.tensors["weight"], weight), weight.shape[2])

    def qconv2d(self, op: Op) -> None:
        codes = weight_codes(op, self.tensors[op.tensors["weight"]]).transpose(0, 3, 1, 2)
        scale = (self.tensors[op.tensors["mul"]].astype(np.float64) / self.steps[op.inputs[0]]).astype(np.float32)
        name = f"{op.output}.weight"
        inputs = [
            self.constant(f"{name}.codes", codes),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(len(scale), np.int8)),
        ]
        weight = self.node("DequantizeLinear", inputs, name, axis=0)
        self.conv(op, op.inputs[0], weight, codes.shape[2])

    def conv(self, op: Op, value: str, weight: str, kernel: int) -> None:
        bias = self.constant(op.tensors["bias"], self.tensors[op.tensors["bias"]])
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        self.node("Conv", [value, weight, bias], op.output, **attributes)

    def quantize(self, op: Op) -> None:
        """Codes and back: the value named like the codes is (a - zero) * step."""
        zero, inv = self.zeros[op.output], float(op.attrs["inv"])
        step = np.float32(1 / abs(inv))
        value, name = op.inputs[0], op.output
        if inv < 0:  # a scale must be positive
            value = self.node("Neg", [value], f"{name}.negative")
        offset = self.tensors[op.tensors["offset"]].astype(np.float64) - zero
        value = self.plus(value, (offset / abs(inv)).astype(np.float32), f"{name}.shifted")
        low = self.constant(f"{name}.low", np.float32(-zero * step))
        high = self.constant(f"{name}.high", np.float32((op.attrs["levels"] - zero) * step))
        value = self.node("Clip", [value, low, high], f"{name}.clipped")
        grid = [self.constant(f"{name}.step", step), self.constant(f"{name}.zero", np.uint8(zero))]
        value = self.node("QuantizeLinear", [value, *grid], f"{name}.codes")
        self.node("DequantizeLinear", [value, *grid], name)
        self.steps[name] = float(step)

    def relu(self, op: Op) -> None:
        self.node("Relu", [op.inputs[0]], op.output)

    def residual(self, op: Op) -> None:
        skip = self.times(op.inputs[0], np.float32(op.attrs["gain"]), f"{op.output}.skip")
        self.node("Add", [skip, op.inputs[1]], op.output)

    def pixel_shuffle(self, op: Op) -> None:
        # column-row-depth is the order of the packed format and of PyTorch
        self.node("DepthToSpace", [op.inputs[0]], op.output, blocksize=int(op.attrs["upscale"]), mode="CRD")


_RULES = {
    "affine": _Graph.affine,
    "conv2d": _Graph.conv2d,
    "quantize": _Graph.quantize,
    "qconv2d": _Graph.qconv2d,
    "odd_qconv2d": _Graph.qconv2d,
    "relu": _Graph.relu,
    "residual": _Graph.residual,
    "pixel_shuffle": _Graph.pixel_shuffle,
}


def _per_channel(array: Any) -> np.ndarray:
    """A scalar as it is, a value per channel for broadcasting over (1, C, H, W)."""
    array = np.asarray(array, np.float32)
    return array if array.ndim == 0 else array.reshape(1, -1, 1, 1)
