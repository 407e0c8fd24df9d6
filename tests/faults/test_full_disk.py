"""A disk that fills while something is written: what was there before stays whole, nothing half-made stays, exit 5.

The disk is real where the tests may mount one; a limit on the size of files does for the rest.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from quantsr import photos
from quantsr.cli import main
from quantsr.photos import Photo

OPTIONS = ("-n", "quantsr-c-x2-w4a4", "--depth", "quarter", "--threads", "1")
QUANTSR = (sys.executable, "-m", "quantsr")
RECIPE = """
model = { upscale = 2, channels = 8, blocks = 2 }
quant = { weight_bits = 4, act_bits = 4 }
data = { photos = "photos", cache = "cache", holdout = 4, patch = 8, batch = 2 }
optim = { steps = 4, warmup = 2 }
run = { folder = "disk/run", threads = 1, checkpoint_every = 1, keep = 10, validate_every = 100, log_every = 1 }
"""
Picture = Callable[..., np.ndarray]


@dataclass
class Disk:
    """A file system of its own, below a working directory."""

    path: Path

    def resize(self, kib: int) -> None:
        _mount("-o", f"remount,size={kib}k", str(self.path))

    def fill(self, left: int) -> None:
        """Leaves so many bytes, of pages of 4 KiB."""
        free = os.statvfs(self.path)
        (self.path / "other").write_bytes(bytes(free.f_bavail * free.f_bsize - left))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1024k", "tmpfs", str(path))
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def quantsr(folder: Path, *arguments: object, most: int | None = None) -> "subprocess.CompletedProcess[str]":
    """most: bytes of a file that may be written."""

    def limit() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    command = [*QUANTSR, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, preexec_fn=limit, capture_output=True, text=True, check=False)


def noise(path: Path, side: int) -> None:
    """Its result takes more room than is expected of a photograph."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "journal" not in path.name
    }


def test_upscaling(tmp_path: Path, disk: Disk, picture: Picture) -> None:
    pictures, out = tmp_path / "in", disk.path / "out"
    pictures.mkdir()
    photos.write(pictures / "a.png", Photo(picture(20, 20)))
    noise(pictures / "b.png", 200)
    out.mkdir()
    (out / "b_x2.png").write_bytes(b"old")
    disk.fill(260_000)
    arguments = ["upscale", pictures, "-o", out, *OPTIONS, "--no-check", "--force"]
    done = quantsr(tmp_path, *arguments)
    assert done.returncode == 5, done.stderr
    assert "No space left on device" in done.stderr and "b_x2.png" in done.stderr and "it needs about" in done.stderr
    found = contents(out)
    assert sorted(found) == ["a_x2.png", "b_x2.png"] and found["b_x2.png"] == b"old"
    (disk.path / "other").unlink()
    assert quantsr(tmp_path, *arguments, "--resume").returncode == 0
    assert len(contents(out)["b_x2.png"]) > 260_000


def test_checkpoints(tmp_path: Path, photos: Path, disk: Disk) -> None:
    """The run is stopped by a full disk, goes on from its last checkpoint, and ends as if nothing had been."""
    pytest.importorskip("torch")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = quantsr(tmp_path, "train", "recipe.toml")
    assert done.returncode == 0, done.stderr
    whole = load_file(disk.path / "run" / "weights.safetensors")
    size = max(len(data) for data in contents(disk.path).values())
    shutil.rmtree(disk.path / "run")
    disk.resize((5 * size // 2) // 1024)  # for two checkpoints
    done = quantsr(tmp_path, "train", "recipe.toml")
    assert done.returncode == 5, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    left = contents(disk.path)
    assert not [name for name in left if name.endswith(".tmp")]
    saved = [name for name in left if "checkpoint" in name]
    assert len(saved) == 2 and {len(left[name]) for name in saved} == {size}
    disk.resize(1024)
    done = quantsr(tmp_path, "train", "recipe.toml", "--resume")
    assert done.returncode == 0, done.stderr
    ended = load_file(disk.path / "run" / "weights.safetensors")
    assert ended.keys() == whole.keys() and all(np.array_equal(ended[name], whole[name]) for name in whole)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint of a small network, not trained."""
    torch = pytest.importorskip("torch")
    from quantsr import checkpoint
    from quantsr.config import ModelConfig, TrainConfig
    from quantsr.quant import QuantConfig, calibrate, quantize

    config = TrainConfig(ModelConfig(upscale=2, channels=8, blocks=2), QuantConfig())
    network = checkpoint.build(config.model)
    quantize(network, config.quant)
    calibrate(network, [torch.rand(1, 3, 9, 9)])
    tensors = {f"ema.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(config, {"ranking": [0, 1], "history": []}, tensors))
    return path


def test_packing(weights: Path, disk: Disk) -> None:
    model = disk.path / "model.safetensors"
    assert main(["pack", str(weights), "-o", str(model)]) == 0
    old = model.read_bytes()
    disk.fill(4096)
    done = quantsr(disk.path, "pack", weights, "-o", model, "--name", "new", "--force")
    assert done.returncode == 5, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert model.read_bytes() == old and not list(disk.path.glob(".*"))


def test_a_model_that_may_not_grow(weights: Path) -> None:
    folder = weights.parent
    done = quantsr(folder, "pack", weights, "-o", "model.safetensors", most=4096)
    assert done.returncode == 5 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list(folder.glob("model*")) and not list(folder.glob(".*.tmp"))


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """A quota, or a file system with a largest file: that picture fails, the others do not."""
    noise(tmp_path / "large.png", 200)
    noise(tmp_path / "small.png", 20)
    arguments = ["upscale", "large.png", "small.png", "-o", "out", *OPTIONS, "--no-check"]
    done = quantsr(tmp_path, *arguments, "--report", "report.json", most=50_000)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert list(contents(tmp_path / "out")) == ["small_x2.png"]
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == 1
