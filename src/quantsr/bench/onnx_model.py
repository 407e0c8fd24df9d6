"""The ONNX file that OpenVINO and ONNX Runtime start from."""

from pathlib import Path

from quantsr.bench.job import Job
from quantsr.bench.parts import with_inner_kernels
from quantsr.export_onnx import graph


def path(job: Job) -> Path:
    return job.built / "model.onnx"


def write(job: Job, style: str) -> None:
    """style: "qdq-int8" for the packed part, "float" for the float one."""
    part = with_inner_kernels(job.low()) if style == "qdq-int8" else job.plain()
    path(job).write_bytes(graph(part.program, part.tensors, part.channels, style).SerializeToString())
