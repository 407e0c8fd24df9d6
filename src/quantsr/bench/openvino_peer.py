"""OpenVINO: float32, bfloat16, int8 by NNCF's post-training quantization, and the packed network as a QDQ graph."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from quantsr.bench import onnx_model
from quantsr.bench.job import Job, interleaved
from quantsr.bench.parts import has_size


def build_float(job: Job) -> None:
    onnx_model.write(job, "float")


def build_qdq(job: Job) -> None:
    onnx_model.write(job, "qdq-int8")


def build_int8(job: Job) -> None:
    import nncf

    onnx_model.write(job, "float")
    model = openvino.Core().read_model(onnx_model.path(job))
    samples = job.calibration()
    kind = nncf.ModelType.TRANSFORMER if has_size(job.plain()) else None
    quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), model_type=kind)
    openvino.save_model(quantized, _quantized(job), compress_to_fp16=False)


class Peer:
    """precision: "f32" or "bf16", what layers compute in that are not quantized."""

    def __init__(self, job: Job, precision: str) -> None:
        core = openvino.Core()
        model = core.read_model(_quantized(job) if _quantized(job).exists() else onnx_model.path(job))
        pixels = job.planar_pixels()
        if model.is_dynamic():
            model.reshape(pixels.shape)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(job.threads),
            "INFERENCE_PRECISION_HINT": precision,
        }
        self.compiled = core.compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
        self.pixels = pixels  # the tensor does not own them

    def run(self) -> None:
        self.request.infer()

    def result(self) -> np.ndarray:
        return interleaved(self.request.get_output_tensor().data)

    def kernels(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            info: Any = node.get_rt_info()
            if info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
                found[info["primitiveType"].astype(str)] += 1
        return found


def _quantized(job: Job) -> Path:
    return job.built / "model.xml"
