"""Every engine that can be measured, by name."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from quantsr.bench.job import Job, Runner
from quantsr.engine import available_isas

OURS = "quantsr"
FAST = f"{OURS}-fast"


@dataclass(frozen=True)
class Engine:
    """module: of this package; it is imported in a worker only. Its class `Peer` is the engine, `settings` the extra
    arguments. build: its function that makes files of a part, once, in a process of its own.

    needs: packages, by import name. limited: whether --max-isa reaches it. bf16: whether it is about bfloat16, which
    runs only without a limit on a CPU that multiplies bfloat16. whole: whether it differs in whole networks only.
    transformers: whether it has rules for them.
    """

    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    build: str = ""
    needs: tuple[str, ...] = ()
    limited: bool = True
    bf16: bool = False
    whole: bool = False
    transformers: bool = True

    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def prepare(self, job: Job) -> None:
        if self.build:
            getattr(self._module(), self.build)(job)

    def load(self, job: Job) -> Runner:
        runner: Runner = self._module().Peer(job, **self.settings)
        return runner

    def _module(self) -> Any:
        return import_module(f"quantsr.bench.{self.module}")


def engines() -> dict[str, Engine]:
    """In the order of the tables."""
    isas = {f"{OURS}-{isa}": Engine("ours", {"isa": isa}) for isa in reversed(available_isas())}
    return {OURS: Engine("ours"), FAST: Engine("ours", {"fast": True}, whole=True)} | isas | PEERS


_OPENVINO, _ONNXRUNTIME = ("openvino", "onnx"), ("onnxruntime", "onnx")

PEERS = {
    "openvino-fp32": Engine("openvino_peer", {"precision": "f32"}, "build_float", _OPENVINO),
    "openvino-bf16": Engine("openvino_peer", {"precision": "bf16"}, "build_float", _OPENVINO, bf16=True),
    "openvino-int8": Engine("openvino_peer", {"precision": "f32"}, "build_int8", (*_OPENVINO, "nncf")),
    "openvino-qdq": Engine("openvino_peer", {"precision": "f32"}, "build_qdq", _OPENVINO),
    "onnxruntime-fp32": Engine("onnxruntime_peer", {}, "build_float", _ONNXRUNTIME, limited=False),
    "onnxruntime-int8": Engine("onnxruntime_peer", {}, "build_int8", _ONNXRUNTIME, limited=False),
    "ncnn-fp32": Engine("ncnn_peer", {}, "build_float", ("ncnn",), limited=False, transformers=False),
    "ncnn-int8": Engine("ncnn_peer", {}, "build_int8", ("ncnn",), limited=False, transformers=False),
    "torch-channels-last": Engine("torch_peer", needs=("torch",), transformers=False),
    "torch-compiled": Engine("torch_peer", {"compiled": True}, needs=("torch",), transformers=False),
    "torch-bf16": Engine("torch_peer", {"bf16": True}, needs=("torch",), bf16=True, transformers=False),
}
