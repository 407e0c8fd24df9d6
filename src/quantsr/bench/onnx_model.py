"""The ONNX file that OpenVINO and ONNX Runtime start from."""

from pathlib import Path

import numpy as np

from quantsr.bench.job import Job
from quantsr.bench.parts import has_size, with_inner_kernels
from quantsr.export_onnx import graph


def path(job: Job) -> Path:
    return job.built / "model.onnx"


def write(job: Job, style: str) -> None:
    """style: "qdq-int8" for the packed part, "float" for the float one."""
    part = with_inner_kernels(job.low()) if style == "qdq-int8" else job.plain()
    size = np.load(job.network / "calibration.npy", mmap_mode="r").shape[1:3] if has_size(part) else None
    path(job).write_bytes(graph(part.program, part.tensors, part.channels, style, size).SerializeToString())
