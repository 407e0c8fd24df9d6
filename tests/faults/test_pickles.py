"""Files that would run code when unpickled, wherever a user may name a file: they are refused, and nothing runs."""

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantsr
from quantsr import photos
from quantsr.cli import main
from quantsr.packing import PackedModelError
from quantsr.photos import PhotoError


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


def plain(canary: Path) -> bytes:
    return pickle.dumps(Hostile(canary))


def torch_zip(canary: Path) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"head.weight": Hostile(canary)}, file)
    return file.getvalue()


def torch_legacy(canary: Path) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"head.weight": Hostile(canary)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def numpy_object(canary: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Hostile(canary)], object), allow_pickle=True)
    return file.getvalue()


KINDS: dict[str, Callable[[Path], bytes]] = {
    "pickle": plain, "torch zip": torch_zip, "torch legacy": torch_legacy, "numpy": numpy_object,
}  # fmt: skip
RECIPE = """
model = { upscale = 2, channels = 8, blocks = 2 }
data = { photos = "photos", cache = "cache", holdout = 4, patch = 8, batch = 2 }
optim = { steps = 2, warmup = 1 }
"""


@pytest.fixture(params=KINDS)
def evil(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in the working directory; it must not have run when the test is over."""
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    path = tmp_path / "evil.safetensors"
    path.write_bytes(KINDS[request.param](canary))

    def check() -> None:
        assert not canary.exists()
        if request.param == "pickle":  # it is indeed hostile
            pickle.loads(path.read_bytes())
            assert canary.exists()

    request.addfinalizer(check)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_as_a_model(evil: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = evil.with_suffix(suffix)
    if path != evil:
        shutil.copy(evil, path)
    Image.new("RGB", (8, 8)).save("a.png")
    for command in (["upscale", "a.png", "-n"], ["info"]):
        assert main([*command, str(path)]) == 2
        assert "Choose a file that `quantsr pack` wrote" in capsys.readouterr().err
    for backend in ("engine", "reference", "torch"):  # these take checkpoints too
        assert main(["evaluate", "--data", ".", "--backend", backend, "-n", str(path)]) == 2
        assert str(path) in capsys.readouterr().err
    with pytest.raises(PackedModelError):
        quantsr.load(path)


def test_as_a_photograph(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(evil, "photo.png")
    assert main(["upscale", "photo.png", "-n", "quantsr-c-x2-w4a4"]) == 4
    assert "photo.png: not a readable image" in capsys.readouterr().err
    with pytest.raises(PhotoError):
        photos.read("photo.png")


def test_as_an_upload(evil: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from quantsr.web.server import create_app

    with TestClient(create_app(), base_url="http://localhost:8000") as client:
        for name in ("photo.png", "model.pth", "../../x.pkl"):
            answer = client.post("/api/jobs", files={"photo": (name, evil.read_bytes())})
            assert answer.status_code == 415
        form = {"model": str(evil)}
        answer = client.post("/api/jobs", files={"photo": ("a.png", b"")}, data=form)
        assert answer.status_code == 422


def test_as_a_checkpoint(evil: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["pack", str(evil), "-o", "packed.safetensors"]) == 2
    assert "not a readable checkpoint" in capsys.readouterr().err and not Path("packed.safetensors").exists()
    Path("recipe.toml").write_text(RECIPE)
    assert main(["train", "recipe.toml", "--with", f"run.init={evil}"]) == 2
    assert "not a readable checkpoint" in capsys.readouterr().err
    for kind in ("checkpoint", "rlfn"):
        teacher = ["--with", f"teacher.weights={evil}", "--with", f"teacher.kind={kind}"]
        assert main(["train", "recipe.toml", "--with", f"run.folder={kind}", *teacher]) == 2


def test_as_the_newest_checkpoint_of_a_run(evil: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Resuming passes it over, as any damaged one, and says so."""
    pytest.importorskip("torch")
    Path("recipe.toml").write_text(RECIPE)
    Path("run").mkdir()
    shutil.copy(evil, "run/checkpoint-0000009.safetensors")
    assert main(["train", "recipe.toml", "--resume"]) == 2  # it is all there is
    Path("run/checkpoint-0000009.safetensors").unlink()
    assert main(["train", "recipe.toml"]) == 0
    shutil.copy(evil, "run/checkpoint-0000009.safetensors")
    caplog.clear()
    assert main(["train", "recipe.toml", "--resume"]) == 0
    assert "checkpoint-0000009.safetensors: not a readable checkpoint" in caplog.text
