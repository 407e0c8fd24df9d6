"""`ulimit -v` at any height: the picture is finished, whole, or it fails with an error and leaves no file."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MIB = 1 << 20
NEEDED = 450  # MiB, to start Python with its libraries; below, even the error may not be told
Picture = Callable[..., np.ndarray]


def upscale(folder: Path, mib: int) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB))

    options = ["-n", "quantsr-c-x4-w4a4", "--depth", "quarter", "--threads", "2", "-o", "out.png", "--force"]
    return subprocess.run(
        [sys.executable, "-m", "quantsr", "upscale", "in.png", *options],
        cwd=folder, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.parametrize("step", [400, pytest.param(20, marks=pytest.mark.slow)])
def test_any_limit_ends_cleanly(tmp_path: Path, picture: Picture, step: int) -> None:
    Image.fromarray(picture(500, 600)).save(tmp_path / "in.png")
    assert upscale(tmp_path, 8000).returncode == 0
    expected = (tmp_path / "out.png").read_bytes()
    ends = set()
    for mib in range(100, 1300, step):
        (tmp_path / "out.png").unlink(missing_ok=True)
        done = upscale(tmp_path, mib)
        assert done.returncode >= 0, f"{mib} MiB: ended by signal {-done.returncode}"
        ends.add(done.returncode)
        if done.returncode == 0:
            assert (tmp_path / "out.png").read_bytes() == expected
            continue
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png"]
        if mib >= NEEDED:
            assert done.returncode == 4 and "Traceback" not in done.stderr, f"{mib} MiB: {done.stderr}"
    assert 0 in ends
