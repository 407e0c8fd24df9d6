"""What many tests need: one torch thread, the reference data where it exists, made-up pictures."""

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

try:
    import torch
except ImportError:  # the engine and its tests do without
    pass
else:
    torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]

# Jobs that a shell runs in the background ignore Ctrl-C, and would have the tests' own processes ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with `benchmarks` and `weights`: $QUANTSR_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("QUANTSR_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set QUANTSR_DATA to a copy of the reference data")
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """picture(height, width, seed=0): uint8 RGB (H, W, 3), smooth waves over the whole range."""
    return _picture


@pytest.fixture(scope="session")
def script() -> Callable[[str], Any]:
    """script(name): a script of benchmarks/ as a module."""
    return _script


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fails a test that would wait without end, for a pipe; skips it where there are none."""
    if os.name == "nt":
        pytest.skip("has no pipes in folders")

    def late(number: int, frame: object) -> NoReturn:
        pytest.fail("waited for 20 s")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of eight made-up photographs of 64x72 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(_picture(64, 72, seed)).save(folder / f"{seed}.png")
    return folder


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(-0.6, 0.6, (3, 8, 2))
    phases = rng.uniform(0, 2 * np.pi, (3, 8))
    planes = [
        sum(np.sin(fy * y + fx * x + phase) for (fy, fx), phase in zip(wave, shift, strict=True))
        for wave, shift in zip(waves, phases, strict=True)
    ]
    stack = np.stack(planes, axis=-1)
    stack = (stack - stack.min()) / (stack.max() - stack.min())
    return np.rint(stack * 255).astype(np.uint8)
