"""What ONNX Runtime makes of an exported graph, beside a picture that it should give. Needs the package `onnxruntime`.

QONNX's Quant is no op of ONNX Runtime. Such a graph is run with each Quant written out in plain ops, by its formula:

    y = (round(clip(x / scale + zero, low, high)) - zero) * scale        halves to even
    low, high = -2^(bits - 1), 2^(bits - 1) - 1 if signed, else 0, 2^bits - 1
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantsr import images, metrics
from quantsr.export_onnx import INPUT, OUTPUT
from quantsr.images import UInt8
from quantsr.onnx_nodes import QONNX

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Gap:
    """Between two 8-bit pictures: the largest difference, the share of samples that differ, PSNR on Y (None: equal)."""

    levels: int
    share: float
    psnr: float | None


@dataclass(frozen=True)
class Outcome:
    """The picture, float32 (H, W, 3), and how often each kind of convolution is in the graph as the runtime ran it."""

    picture: Array
    convolutions: dict[str, int]


class RuntimeRefused(RuntimeError):
    """ONNX Runtime cannot load or run the graph."""


def gap(got: UInt8, wanted: UInt8) -> Gap:
    differences = np.abs(got.astype(int) - wanted)
    if not differences.any():
        return Gap(0, 0.0, None)
    return Gap(int(differences.max()), float((differences > 0).mean()), metrics.psnr(got, wanted, 0))


def run(model: onnx.ModelProto, image: Array, *, optimize: bool = True) -> Outcome:
    """image: float32 (H, W, 3) in [0, 1]. optimize: the runtime's default, or its graph optimisation off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        ran = Path(folder) / "ran.onnx"
        options.optimized_model_filepath = str(ran)
        try:
            data = plain(model).SerializeToString()
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            (out,) = session.run([OUTPUT], {INPUT: np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
        except Exception as error:  # its errors share no other class
            raise RuntimeRefused(f"ONNX Runtime {onnxruntime.__version__}: {error}") from error
        nodes = onnx.load(ran).graph.node
    return Outcome(out[0].transpose(1, 2, 0), Counter(node.op_type for node in nodes if "Conv" in node.op_type))


def compare(model: onnx.ModelProto, image: Array, wanted: Array) -> dict[str, Any]:
    """The facts of a report: what the runtime gives with and without its graph optimisation. Raises RuntimeRefused."""
    goal, default = images.to_uint8(wanted), run(model, image)
    as_written = run(model, image, optimize=False)
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "picture": [image.shape[1], image.shape[0]],
        "default": vars(gap(images.to_uint8(default.picture), goal)),
        "not_optimised": vars(gap(images.to_uint8(as_written.picture), goal)),
        "convolutions": default.convolutions,
    }


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ops of ONNX alone; itself if it has no Quant."""
    if all(node.domain != QONNX for node in model.graph.node):
        return model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    written = onnx.ModelProto()
    written.CopyFrom(model)
    del written.graph.node[:], written.opset_import[:]
    written.opset_import.extend(domain for domain in model.opset_import if domain.domain != QONNX)
    for node in model.graph.node:
        written.graph.node.extend(_quant(written.graph, node, constants) if node.domain == QONNX else [node])
    return written


def _quant(graph: onnx.GraphProto, node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Iterator[onnx.NodeProto]:
    value, scale, zero, bits = node.input
    signed = {found.name: helper.get_attribute_value(found) for found in node.attribute}["signed"]
    width, output = int(constants[bits]), node.output[0]
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    for name, limit in (("low", low), ("high", high)):
        graph.initializer.append(numpy_helper.from_array(np.array(limit, np.float32), f"{output}.code.{name}"))
    steps = [("Div", scale), ("Add", zero), ("Clip", ""), ("Round", ""), ("Sub", zero), ("Mul", scale)]
    for number, (kind, other) in enumerate(steps):
        more = [f"{output}.code.low", f"{output}.code.high"] if kind == "Clip" else [other] if other else []
        result = output if kind == "Mul" else f"{output}.quant.{number}"
        yield helper.make_node(kind, [value, *more], [result])
        value = result
