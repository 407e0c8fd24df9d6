"""Packed ops -> ONNX, for other runtimes. Needs the package `onnx`.

Two graphs of the same file. Input `image`: float32 (1, 3, height, width), RGB in [0, 1]; output `upscaled`: float32
(1, 3, upscale*height, upscale*width), not clamped. Height and width are free, except in a transformer, whose graph
holds them.

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

from quantsr import onnx_transformer
from quantsr.dequantize import without_quantizers
from quantsr.files import write_atomically
from quantsr.packing.ops import IMAGE, IMAGE_CHANNELS, Op, PackedModel, Program, weight_codes

LOW_BIT = ("qdq", "float")
INPUT, OUTPUT = IMAGE, "upscaled"
PLANES, PIXELS = "planes", "pixels"  # layouts of values: (1, C, H, W), and (1, H, W, C) within transformers
SIZED = ("pad", "crop", "window_attention")  # kinds whose nodes hold the size
OPSET, IR_VERSION = 17, 8  # old enough for every runtime of the last years, new enough for scales per channel

Tensors = Mapping[str, np.ndarray]


def export(
    packed: PackedModel, depth: str, path: str | Path, low_bit: str = "qdq", size: tuple[int, int] | None = None
) -> None:
    """Writes the program of a depth as one ONNX file.

    size: height and width of the image; None leaves them free. Raises ValueError for an unknown depth or kind of graph,
    and for a transformer without a size.
    """
    if depth not in packed.programs:
        raise ValueError(f"depth: wanted one of {', '.join(packed.programs)}, got {depth!r}")
    write_atomically(
        path, graph(packed.programs[depth], packed.tensors, IMAGE_CHANNELS, low_bit, size).SerializeToString()
    )


def graph(
    program: Program, tensors: Tensors, channels: int, low_bit: str, size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """The same, in memory, of any list of ops whose input `image` has `channels` channels."""
    if low_bit not in LOW_BIT:
        raise ValueError(f"low_bit: wanted one of {', '.join(LOW_BIT)}, got {low_bit!r}")
    if low_bit == "float":
        program, tensors = without_quantizers(program, tensors)
    if size is None and any(op.kind in SIZED for op in program.ops):
        raise ValueError("size: wanted height and width of the image, which the graph of a transformer holds, got none")
    return _Graph(program, tensors, size).model(program.output, channels)


class _Graph:
    """Emits nodes; values keep the names that the program gives them."""

    def __init__(self, program: Program, tensors: Tensors, size: tuple[int, int] | None) -> None:
        self.tensors, self.size = tensors, size
        multiple = next((int(op.attrs["multiple"]) for op in program.ops if op.kind == "pad"), 1)
        self.padded = None if size is None else (size[0] + -size[0] % multiple, size[1] + -size[1] % multiple)
        self.layouts: dict[str, str] = {}  # of values that are not PLANES
        self.turned: dict[str, str] = {}  # values in their other layout
        self.on_pixels = {op.output for op in program.ops if self.is_linear(op, program)}
        self.on_pixels |= {op.inputs[0] for op in program.ops if op.kind == "qconv2d" and op.output in self.on_pixels}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.zeros = {op.inputs[0]: int(op.attrs["zero"]) for op in program.ops if op.kind == "qconv2d"}
        self.steps: dict[str, float] = {}  # of each value of codes: the scale
        for op in program.ops:
            if op.kind not in _RULES:
                raise ValueError(f"op {op.output!r}: wanted one of {', '.join(_RULES)}, got {op.kind!r}")
            _RULES[op.kind](self, op)

    def model(self, output: str, channels: int) -> onnx.ModelProto:
        self.node("Identity", [output], OUTPUT)
        shape: list[Any] = [1, channels, *(self.size or ("height", "width"))]
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
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def is_linear(self, op: Op, program: Program) -> bool:
        """Whether a convolution of single pixels is a linear layer of a transformer."""
        if op.kind not in ("conv2d", "qconv2d") or all(other.kind != "window_attention" for other in program.ops):
            return False
        return int(op.attrs.get("kernel") or self.tensors[op.tensors["weight"]].shape[1]) == 1

    def layout(self, value: str) -> str:
        return self.layouts.get(value, PLANES)

    def made(self, op: Op, layout: str) -> None:
        if layout != PLANES:
            self.layouts[op.output] = layout

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
        return self.node("Add", [value, self.constant(f"{output}.offset", _per_channel(offset, layout))], output)

    def times(self, value: str, scale: Any, output: str, layout: str) -> str:
        if np.all(scale == 1):
            return value
        return self.node("Mul", [value, self.constant(f"{output}.scale", _per_channel(scale, layout))], output)

    def affine(self, op: Op) -> None:
        layout = self.layout(op.inputs[0])
        value = self.times(op.inputs[0], self.tensors[op.tensors["scale"]], f"{op.output}.scaled", layout)
        value = self.plus(value, self.tensors[op.tensors["offset"]], f"{op.output}.shifted", layout)
        self.node("Identity", [value], op.output)
        self.made(op, layout)

    def conv2d(self, op: Op) -> None:
        weight = self.tensors[op.tensors["weight"]]
        if op.output in self.on_pixels:
            return self.linear(op, self.constant(op.tensors["weight"], weight[:, 0, 0].T))
        weight = weight.transpose(0, 3, 1, 2)  # (O, I, K, K)
        self.conv(op, self.constant(op.tensors["weight"], weight), weight.shape[2])

    def qconv2d(self, op: Op) -> None:
        codes, linear = weight_codes(op, self.tensors[op.tensors["weight"]]), op.output in self.on_pixels
        codes = codes[:, 0, 0].T if linear else codes.transpose(0, 3, 1, 2)
        scale = (self.tensors[op.tensors["mul"]].astype(np.float64) / self.steps[op.inputs[0]]).astype(np.float32)
        name = f"{op.output}.weight"
        inputs = [
            self.constant(f"{name}.codes", codes),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(len(scale), np.int8)),
        ]
        weight = self.node("DequantizeLinear", inputs, name, axis=1 if linear else 0)
        self.linear(op, weight) if linear else self.conv(op, weight, codes.shape[2])

    def conv(self, op: Op, weight: str, kernel: int) -> None:
        bias = self.constant(op.tensors["bias"], self.tensors[op.tensors["bias"]])
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        self.node("Conv", [self.turn(op.inputs[0], PLANES), weight, bias], op.output, **attributes)

    def linear(self, op: Op, weight: str) -> None:
        """weight: (I, O)."""
        bias = self.constant(op.tensors["bias"], self.tensors[op.tensors["bias"]])
        product = self.node("MatMul", [self.turn(op.inputs[0], PIXELS), weight], f"{op.output}.product")
        self.node("Add", [product, bias], op.output)
        self.made(op, PIXELS)

    def quantize(self, op: Op) -> None:
        """Codes and back: the value named like the codes is (a - zero) * step."""
        zero, inv = self.zeros[op.output], float(op.attrs["inv"])
        step = np.float32(1 / abs(inv))
        layout = PIXELS if op.output in self.on_pixels else PLANES
        value, name = self.turn(op.inputs[0], layout), op.output
        if inv < 0:  # a scale must be positive
            value = self.node("Neg", [value], f"{name}.negative")
        offset = self.tensors[op.tensors["offset"]].astype(np.float64) - zero
        value = self.plus(value, (offset / abs(inv)).astype(np.float32), f"{name}.shifted", layout)
        low = self.constant(f"{name}.low", np.float32(-zero * step))
        high = self.constant(f"{name}.high", np.float32((op.attrs["levels"] - zero) * step))
        value = self.node("Clip", [value, low, high], f"{name}.clipped")
        grid = [self.constant(f"{name}.step", step), self.constant(f"{name}.zero", np.uint8(zero))]
        value = self.node("QuantizeLinear", [value, *grid], f"{name}.codes")
        self.node("DequantizeLinear", [value, *grid], name)
        self.steps[name] = float(step)
        self.made(op, layout)

    def relu(self, op: Op) -> None:
        self.node("Relu", [op.inputs[0]], op.output)
        self.made(op, self.layout(op.inputs[0]))

    def residual(self, op: Op) -> None:
        layout = PIXELS if PIXELS in map(self.layout, op.inputs) else PLANES
        skip, branch = (self.turn(value, layout) for value in op.inputs)
        skip = self.times(skip, np.float32(op.attrs["gain"]), f"{op.output}.skip", layout)
        self.node("Add", [skip, branch], op.output)
        self.made(op, layout)

    def pixel_shuffle(self, op: Op) -> None:
        # column-row-depth is the order of the packed format and of PyTorch
        value = self.turn(op.inputs[0], PLANES)
        self.node("DepthToSpace", [value], op.output, blocksize=int(op.attrs["upscale"]), mode="CRD")

    def pad(self, op: Op) -> None:
        assert self.size is not None
        onnx_transformer.pad(self, self.turn(op.inputs[0], PLANES), op, self.size)

    def crop(self, op: Op) -> None:
        assert self.size is not None
        onnx_transformer.crop(self, self.turn(op.inputs[0], PLANES), op, self.size)

    def layer_norm(self, op: Op) -> None:
        scale, offset = (self.constant(op.tensors[r], self.tensors[op.tensors[r]]) for r in ("scale", "offset"))
        inputs = [self.turn(op.inputs[0], PIXELS), scale, offset]
        self.node("LayerNormalization", inputs, op.output, axis=-1, epsilon=float(op.attrs["epsilon"]))
        self.made(op, PIXELS)

    def gelu(self, op: Op) -> None:
        onnx_transformer.gelu(self, op.inputs[0], op)
        self.made(op, self.layout(op.inputs[0]))

    def window_attention(self, op: Op) -> None:
        assert self.padded is not None
        table, value = self.tensors[op.tensors["position_bias"]], self.turn(op.inputs[0], PIXELS)
        onnx_transformer.attention(self, value, op, self.padded, table)
        self.made(op, PIXELS)


_RULES = {
    "affine": _Graph.affine,
    "conv2d": _Graph.conv2d,
    "quantize": _Graph.quantize,
    "qconv2d": _Graph.qconv2d,
    "relu": _Graph.relu,
    "residual": _Graph.residual,
    "pixel_shuffle": _Graph.pixel_shuffle,
    "pad": _Graph.pad,
    "crop": _Graph.crop,
    "layer_norm": _Graph.layer_norm,
    "gelu": _Graph.gelu,
    "window_attention": _Graph.window_attention,
}


def _per_channel(array: Any, layout: str) -> np.ndarray:
    """A scalar as it is, a value per channel for broadcasting."""
    array = np.asarray(array, np.float32)
    return array if array.ndim == 0 or layout == PIXELS else array.reshape(1, -1, 1, 1)
