"""Packed ops -> ONNX, for other runtimes. Needs the package `onnx`.

Input `image`: float32 (1, 3, height, width), RGB in [0, 1]; output `upscaled`: float32 (1, 3, upscale*height,
upscale*width), not clamped. Height and width are free, except in a transformer, whose graph holds them. All in one
file. Styles of the low-bit layers:

qdq-int8: QuantizeLinear and DequantizeLinear around each convolution; codes of 2 to 4 bits are held in bytes. What
  runtimes with 8-bit kernels know.
int4: the same with weights as INT4 and activations as UINT4 tensors (opset 21), codes of 2 and 3 bits in 4.
int2: the same with INT2 and UINT2 tensors (opset 25), for networks of 2 bits. Weights of the mid-rise grid are held as
  their codes, and half a level is added behind.
qonnx: float tensors and QONNX's Quant nodes of any width, for FPGA tools. No plain runtime executes it.
float: the plain float network of `dequantize`; another function, for timing and for the quantizers of others.

In the first four a quantizer is: add the shift, clip to the range of the codes, round, all times the step. They differ
from `reference` by float rounding, and, where that flips a code, by a step. A low-bit convolution has no bias; it is
added behind. Were it an input of the convolution, ONNX Runtime would round it to whole products of both steps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ml_dtypes import int2, uint2
from onnx import TensorProto, helper

from quantsr import onnx_transformer
from quantsr.dequantize import without_quantizers
from quantsr.files import write_atomically
from quantsr.onnx_nodes import PIXELS, PLANES, STYLES, Nodes, Style, per_channel
from quantsr.packing.ops import ATTENTIONS, QCONVS, weight_codes
from quantsr.packing.program import IMAGE, IMAGE_CHANNELS, Op, PackedModel, Program

INPUT, OUTPUT = IMAGE, "upscaled"
SIZED = ("pad", "crop", *ATTENTIONS)  # kinds whose nodes hold the size

Tensors = Mapping[str, np.ndarray]


class UnknownOp(ValueError):
    """The program has an op that has no rule here."""


def export(
    packed: PackedModel, depth: str, path: str | Path, style: str = "qdq-int8", size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """Writes the program of a depth as one ONNX file, and returns it.

    size: height and width of the image; None leaves them free. Raises ValueError for an unknown depth or style, for
    codes that the style's tensors cannot hold, and for a transformer without a size, UnknownOp for a program with an op
    that cannot be exported.
    """
    if depth not in packed.programs:
        raise ValueError(f"depth: wanted one of {', '.join(packed.programs)}, got {depth!r}")
    model = graph(packed.programs[depth], packed.tensors, IMAGE_CHANNELS, style, size)
    write_atomically(path, model.SerializeToString())
    return model


def graph(
    program: Program, tensors: Tensors, channels: int, style: str, size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """The same, in memory, of any list of ops whose input `image` has `channels` channels."""
    if style not in STYLES:
        raise ValueError(f"style: wanted one of {', '.join(STYLES)}, got {style!r}")
    if style == "float":
        program, tensors = without_quantizers(program, tensors)
    if size is None and holds_size(program):
        raise ValueError("size: wanted height and width of the image, which the graph of a transformer holds, got none")
    made = _Graph(program, tensors, STYLES[style], size)
    for op in program.ops:
        made.add(op)
    return made.model(channels)


def holds_size(program: Program) -> bool:
    """Whether its graph is of one size: that of a transformer."""
    return any(op.kind in SIZED for op in program.ops)


class _Graph(Nodes):
    """A rule for each kind of op; values keep the names that the program gives them."""

    def __init__(self, program: Program, tensors: Tensors, style: Style, size: tuple[int, int] | None) -> None:
        super().__init__(style, {INPUT})
        self.program, self.tensors, self.size = program, tensors, size
        self.multiples = {INPUT: 1}  # what each value's height and width are padded to
        self.on_pixels = {op.output for op in program.ops if self.is_linear(op)}
        self.on_pixels |= {op.inputs[0] for op in program.ops if op.kind in QCONVS and op.output in self.on_pixels}
        self.zeros = {op.inputs[0]: int(op.attrs["zero"]) for op in program.ops if op.kind in QCONVS}
        self.steps: dict[str, float] = {}  # of each value of codes: the scale
        self.quantizers = {op.output: op for op in program.ops if op.kind == "quantize"}

    def add(self, op: Op) -> None:
        if op.kind not in _RULES:
            raise UnknownOp(f"op {op.output!r}: got {op.kind!r}, which has no ONNX form; wanted {', '.join(_RULES)}")
        before = 1 if op.kind == "crop" else self.multiples[op.inputs[0]]
        self.multiples[op.output] = int(op.attrs.get("multiple", before))
        _RULES[op.kind](self, op)

    def model(self, channels: int) -> onnx.ModelProto:
        output = self.turn(self.program.output, PLANES)
        if output != OUTPUT:
            self.node("Identity", [output], OUTPUT)
        shape: list[Any] = [1, channels, *(self.size or ("height", "width"))]
        graph = helper.make_graph(
            self.nodes,
            "quantsr",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, None, None, None])],
            list(self.constants.values()),
        )
        settings = {"opset_imports": self.style.domains, "ir_version": self.style.ir_version}
        return helper.make_model(graph, producer_name="quantsr", **settings)

    def tensor(self, op: Op, role: str, array: Any = None) -> str:
        """A tensor of the op, or `array` in its place; another op may hold the same one in another layout."""
        return self.constant(f"{op.output}.{role}", self.tensors[op.tensors[role]] if array is None else array)

    def padded(self, value: str) -> tuple[int, int]:
        """Height and width of a value of the image's resolution."""
        assert self.size is not None
        multiple = self.multiples[value]
        return self.size[0] + -self.size[0] % multiple, self.size[1] + -self.size[1] % multiple

    def is_linear(self, op: Op) -> bool:
        """Whether a convolution of single pixels is a linear layer of a transformer."""
        if op.kind not in ("conv2d", "qconv2d") or all(other.kind not in ATTENTIONS for other in self.program.ops):
            return False
        return int(op.attrs.get("kernel") or self.tensors[op.tensors["weight"]].shape[1]) == 1

    def affine(self, op: Op) -> None:
        layout = self.layout(op.inputs[0])
        value = self.times(op.inputs[0], self.tensors[op.tensors["scale"]], f"{op.output}.scaled", layout)
        value = self.plus(value, self.tensors[op.tensors["offset"]], f"{op.output}.shifted", layout)
        self.node("Identity", [value], op.output)
        self.made(op.output, layout)

    def conv2d(self, op: Op) -> None:
        weight = self.tensors[op.tensors["weight"]]
        if op.output in self.on_pixels:
            return self.linear(op, self.tensor(op, "weight", weight[:, 0, 0].T))
        weight = weight.transpose(0, 3, 1, 2)  # (O, I, K, K)
        inputs = [self.tensor(op, "weight", weight), self.tensor(op, "bias")]
        self.conv(op, inputs, op.output, weight.shape[2])

    def qconv2d(self, op: Op) -> None:
        codes, linear = weight_codes(op, self.tensors[op.tensors["weight"]]), op.output in self.on_pixels
        codes = codes[:, 0, 0].T if linear else codes.transpose(0, 3, 1, 2)
        scale = (self.tensors[op.tensors["mul"]].astype(np.float64) / self.steps[op.inputs[0]]).astype(np.float32)
        name = f"{op.output}.weight"
        axis = 1 if linear else 0  # of the output channels
        per_output = np.expand_dims(scale, tuple(a for a in range(codes.ndim) if a != axis))
        if self.style.weight is None:
            grid = [self.constant(f"{name}.scale", per_output), self.constant("zero", np.float32(0))]
            bits = int(op.attrs["weight_bits"]) + (op.kind == "odd_qconv2d")  # odd numbers take one more
            self.quant([self.constant(f"{name}.value", codes * per_output), *grid], name, bits, signed=True)
        elif op.kind == "odd_qconv2d" and self.style.weight is int2:  # code + 1/2 in place of 2 * code + 1
            levels = self.dequantized((codes - 1) // 2, 2 * scale, f"{name}.levels", axis)
            self.node("Add", [levels, self.constant(f"{name}.half", per_output)], name)
        else:
            self.dequantized(codes, scale, name, axis)
        if linear:
            return self.linear(op, name)
        product = self.conv(op, [name], f"{op.output}.product", codes.shape[2])
        bias = self.tensor(op, "bias", per_channel(self.tensors[op.tensors["bias"]], PLANES))
        self.node("Add", [product, bias], op.output)

    def conv(self, op: Op, weight_and_bias: list[str], output: str, kernel: int) -> str:
        inputs = [self.turn(op.inputs[0], PLANES), *weight_and_bias]
        return self.node("Conv", inputs, output, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)

    def linear(self, op: Op, weight: str) -> None:
        """weight: (I, O)."""
        product = self.node("MatMul", [self.turn(op.inputs[0], PIXELS), weight], f"{op.output}.product")
        bias = self.tensors[op.tensors["bias"]]
        if self.style.act is uint2:  # ONNX Runtime makes a Gemm of a bias (O,), and its Reshape before knows no uint2
            bias = bias[None, None, None]
        self.node("Add", [product, self.tensor(op, "bias", bias)], op.output)
        self.made(op.output, PIXELS)

    def quantize(self, op: Op) -> None:
        """Codes and back: the value named like the codes is (a - zero) * step. Attention makes its own."""
        if op.output not in self.zeros:
            return
        zero, levels, inv = self.zeros[op.output], int(op.attrs["levels"]), float(op.attrs["inv"])
        step = np.float32(1 / abs(inv))
        layout = PIXELS if op.output in self.on_pixels else PLANES
        value, name = self.turn(op.inputs[0], layout), op.output
        if inv < 0:  # a scale must be positive
            value = self.node("Neg", [value], f"{name}.negative")
        offset = self.tensors[op.tensors["offset"]].astype(np.float64) - zero
        value = self.plus(value, (offset / abs(inv)).astype(np.float32), f"{name}.shifted", layout)
        self.made(op.output, layout)
        self.steps[name] = float(step)
        self.rounded(value, step, zero, levels, name)

    def relu(self, op: Op) -> None:
        self.node("Relu", [op.inputs[0]], op.output)
        self.made(op.output, self.layout(op.inputs[0]))

    def residual(self, op: Op) -> None:
        layout = PIXELS if PIXELS in map(self.layout, op.inputs) else PLANES
        skip, branch = (self.turn(value, layout) for value in op.inputs)
        skip = self.times(skip, np.float32(op.attrs["gain"]), f"{op.output}.skip", layout)
        self.node("Add", [skip, branch], op.output)
        self.made(op.output, layout)

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
        inputs = [self.turn(op.inputs[0], PIXELS), self.tensor(op, "scale"), self.tensor(op, "offset")]
        self.node("LayerNormalization", inputs, op.output, axis=-1, epsilon=float(op.attrs["epsilon"]))
        self.made(op.output, PIXELS)

    def gelu(self, op: Op) -> None:
        onnx_transformer.gelu(self, op.inputs[0], op)
        self.made(op.output, self.layout(op.inputs[0]))

    def window_attention(self, op: Op) -> None:
        table, value = self.tensors[op.tensors["position_bias"]], self.turn(op.inputs[0], PIXELS)
        onnx_transformer.attention(self, value, op, self.padded(op.inputs[0]), table)
        self.made(op.output, PIXELS)

    def qwindow_attention(self, op: Op) -> None:
        quantizer = self.quantizers[op.inputs[0]]
        value = self.turn(quantizer.inputs[0], PIXELS)
        value = self.times(value, np.float32(quantizer.attrs["inv"]), f"{op.output}.steps", PIXELS)
        value = self.plus(value, self.tensors[quantizer.tensors["offset"]], f"{op.output}.moved", PIXELS)
        tensors = {role: self.tensors[name] for role, name in op.tensors.items()}
        size, levels = self.padded(op.inputs[0]), int(quantizer.attrs["levels"])
        onnx_transformer.code_attention(self, value, op, size, levels, tensors)
        self.made(op.output, PIXELS)


_RULES = {
    "affine": _Graph.affine,
    "conv2d": _Graph.conv2d,
    "quantize": _Graph.quantize,
    "qconv2d": _Graph.qconv2d,
    "odd_qconv2d": _Graph.qconv2d,
    "relu": _Graph.relu,
    "residual": _Graph.residual,
    "pixel_shuffle": _Graph.pixel_shuffle,
    "pad": _Graph.pad,
    "crop": _Graph.crop,
    "layer_norm": _Graph.layer_norm,
    "gelu": _Graph.gelu,
    "window_attention": _Graph.window_attention,
    "qwindow_attention": _Graph.qwindow_attention,
}
