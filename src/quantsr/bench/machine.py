"""What ran: the CPU and the versions of everything that was measured."""

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from quantsr.engine import available_isas, usable_cpus

PACKAGES = ("quantsr", "numpy", "openvino", "nncf", "onnxruntime", "onnx", "ncnn", "torch")
_X86_FLAGS = "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16"
_ARM_FLAGS = "asimd asimddp i8mm bf16 sve"


def machine() -> dict[str, Any]:
    """Facts about the CPU; on systems that do not tell, only what Python knows."""
    found = _cpuinfo()
    flags = (found.get("flags") or found.get("Features") or "").split()
    return {
        "cpu": found.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": usable_cpus(),
        "flags": [flag for flag in f"{_X86_FLAGS} {_ARM_FLAGS}".split() if flag in flags],
        "caches": _caches(),
        "instruction_sets": available_isas(),
    }


def multiplies_bf16() -> bool:
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(machine()["flags"])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    """The first CPU's lines of /proc/cpuinfo."""
    if sys.platform != "linux":
        return {}
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _caches() -> dict[str, str]:
    """Size of each cache that the first CPU sees, such as {"L1 Data": "48K"}."""
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # not every firmware tells
            continue
        caches[f"L{level}" if kind == "Unified" else f"L{level} {kind.lower()}"] = size
    return caches
