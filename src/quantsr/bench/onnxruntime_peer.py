"""ONNX Runtime: float32, and static quantization to uint8 activations and int8 weights, a scale per output channel."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime

from quantsr.bench import onnx_model
from quantsr.bench.job import Job, interleaved
from quantsr.export_onnx import INPUT, OUTPUT


def build_float(job: Job) -> None:
    onnx_model.write(job, "float")


def build_int8(job: Job) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter(job.calibration())

        def get_next(self) -> Any:
            return next(({INPUT: sample} for sample in self.samples), None)

    onnx_model.write(job, "float")
    source = job.built / "float.onnx"
    onnx_model.path(job).rename(source)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, onnx_model.path(job), Samples(), per_channel=True, **types)


class Peer:
    def __init__(self, job: Job) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.optimized = job.built / f"optimized-{job.threads}.onnx"
        options.optimized_model_filepath = str(self.optimized)
        self.session = onnxruntime.InferenceSession(onnx_model.path(job), options, providers=["CPUExecutionProvider"])
        value = onnxruntime.OrtValue.ortvalue_from_numpy(job.planar_pixels())
        (first,) = self.session.run_with_ort_values([OUTPUT], {INPUT: value})
        self.out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(first.shape(), np.float32)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(INPUT, value)
        self.binding.bind_ortvalue_output(OUTPUT, self.out)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def result(self) -> np.ndarray:
        return interleaved(self.out.numpy())

    def kernels(self) -> Counter[str]:
        names = (f"{node.domain}.{node.op_type}".lstrip(".") for node in onnx.load(self.optimized).graph.node)
        return Counter(name for name in names if "Conv" in name or "MatMul" in name)
