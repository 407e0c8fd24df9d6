"""Which parts load which: using a packed network must not load torch, and a backbone must not know of quantization."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import quantsr.images

PACKAGE = Path(quantsr.images.__file__).parent
TOP_LEVEL = {
    "torch",
    "quantsr.quant",
    "quantsr.models",
    "quantsr.train",
    "skimage",
    "onnx",
    "onnxruntime",
    "openvino",
    "matplotlib",
    "av",
}

# Room -> what it never imports, not even inside a function.
NEVER = {
    "images.py": ["torch"],
    "pixels.py": ["torch"],
    "photos": ["torch", "quantsr.engine", "quantsr.model"],
    "batch": ["torch", "quantsr.commands"],
    "video": ["torch", "quantsr.commands"],
    "files.py": ["torch"],
    "metrics.py": ["torch"],
    "reference.py": ["torch"],
    "exact.py": ["torch"],
    "engine.py": ["torch"],
    "models": ["quantsr.quant", "quantsr.packing", "quantsr.train"],
    "quant": ["quantsr.models", "quantsr.data", "quantsr.packing"],
    "data/patches.py": ["quantsr.packing", "quantsr.engine"],
    "data/benchmarks.py": ["torch"],
    "foreign": ["quantsr.packing", "quantsr.engine", "quantsr.train"],
    "train": ["quantsr.packing", "quantsr.engine"],
    "evaluate.py": ["quantsr.models", "quantsr.quant"],
    "packing/bits.py": ["torch"],
    "packing/program.py": ["torch"],
    "packing/ops.py": ["torch"],
    "packing/checks.py": ["torch"],
    "packing/reach.py": ["torch"],
    "packing/file.py": ["torch"],
    "packing/lower.py": ["quantsr.engine"],
    "dequantize.py": ["torch"],
    "export_onnx.py": ["torch", "quantsr.engine"],
    "onnx_parity.py": ["torch", "quantsr.engine"],
}


def loaded_by(module: str) -> set[str]:
    """Which of TOP_LEVEL a fresh interpreter has loaded after importing a module."""
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return TOP_LEVEL & set(result.stdout.split())


@pytest.mark.parametrize(
    "module", ["quantsr", "quantsr.images", "quantsr.metrics", "quantsr.data.benchmarks", "quantsr.cli"]
)
def test_using_the_package_leaves_torch_unloaded(module: str) -> None:
    assert loaded_by(module) == set()


def test_backbones_do_not_load_quantizers() -> None:
    assert loaded_by("quantsr.models") == {"torch", "quantsr.models"}


def test_quantizers_do_not_load_backbones() -> None:
    assert loaded_by("quantsr.quant") == {"torch", "quantsr.quant"}


@pytest.mark.parametrize("room", NEVER)
def test_rooms_keep_apart(room: str) -> None:
    path = PACKAGE / room
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    for file in files:
        for name in _imported(file):
            for forbidden in NEVER[room]:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{file.name} imports {name}"


def _imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
