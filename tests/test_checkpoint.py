import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from quantsr import checkpoint as checkpoints
from quantsr.checkpoint import Checkpoint, CheckpointError
from quantsr.config import ModelConfig, TrainConfig
from quantsr.quant import QuantConfig, calibrate, quantize, quantized_layers

MODEL = ModelConfig(upscale=2, channels=8, blocks=2)


def network(quant: QuantConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    result = checkpoints.build(MODEL)
    if quant is not None:
        quantize(result, quant)
        calibrate(result, [torch.rand(2, 3, 8, 8)])
    return result.eval()


def saved(path: Path, quant: QuantConfig | None = None) -> nn.Module:
    """Writes a file of weights alone and returns the network it came from."""
    source = network(quant)
    tensors = {f"ema.{name}": tensor for name, tensor in source.state_dict().items()}
    checkpoints.save(path, Checkpoint(TrainConfig(model=MODEL, quant=quant), {"step": 7, "ranking": [1, 0]}, tensors))
    return source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint-0000007.safetensors"


# ---- round trips


def test_everything_comes_back(path: Path) -> None:
    tensors = {
        "model.a": torch.randn(3, 4).to(torch.float32),
        "model.b": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "ema.flags": torch.tensor([1, 0], dtype=torch.uint8),
        "optim.step.a": torch.tensor(5.0),
    }
    config = TrainConfig(quant=QuantConfig(weight_bits=2))
    checkpoints.save(path, Checkpoint(config, {"step": 3, "ranking": [1, 0]}, tensors))
    found = checkpoints.load(path)
    assert found.config == config and found.state == {"step": 3, "ranking": [1, 0]}
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.part("model").keys() == {"a", "b"}
    assert found.part("optim.step").keys() == {"a"}


def test_tensors_that_share_memory_can_be_saved(path: Path) -> None:
    one = torch.randn(4)
    checkpoints.save(path, Checkpoint(TrainConfig(), {}, {"model.a": one, "ema.a": one}))
    assert torch.equal(checkpoints.load(path).tensors["ema.a"], one)


def test_a_part_is_not_confused_with_a_longer_name(path: Path) -> None:
    tensors = {"optim.exp_avg.a": torch.zeros(1), "optim.exp_avg_sq.a": torch.ones(1)}
    checkpoints.save(path, Checkpoint(TrainConfig(), {}, tensors))
    found = checkpoints.load(path)
    assert found.part("optim.exp_avg").keys() == {"a"} and float(found.part("optim.exp_avg")["a"]) == 0


@pytest.mark.parametrize("quant", [None, QuantConfig(weight_bits=2, act_bits=3)], ids=["float", "W2A3"])
def test_a_network_comes_back_ready_to_use(path: Path, quant: QuantConfig | None) -> None:
    source = saved(path, quant)
    loaded, found = checkpoints.load_network(path)
    x = torch.rand(1, 3, 9, 7)
    assert torch.equal(loaded(x), source(x))
    assert not loaded.training and loaded.ranking == (1, 0) and found.state["step"] == 7
    assert len(quantized_layers(loaded)) == (0 if quant is None else 4)


def test_the_file_is_safetensors_with_json(path: Path) -> None:
    saved(path, QuantConfig())
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert set(metadata) == {"config", "state", "sha256"}
    assert json.loads(metadata["config"])["quant"]["weight_bits"] == 4


# ---- writing


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("part", ["model", "ema", "optim.exp_avg_sq"])
def test_a_non_finite_value_is_never_saved(path: Path, part: str, value: float) -> None:
    saved(path)
    before = path.read_bytes()
    tensors = {"model.ok": torch.ones(3), f"{part}.bad": torch.tensor([1.0, value, 2.0])}
    with pytest.raises(CheckpointError, match=rf"{part}\.bad holds a non-finite value; not saved"):
        checkpoints.save(path, Checkpoint(TrainConfig(), {}, tensors))
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    saved(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, step, full)
        saved(path, QuantConfig())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ---- reading what is not right


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("not a checkpoint at all, but long enough to look like one")


def _bare(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)


def _metadata(**metadata: str) -> Callable[[Path], None]:
    return lambda path: safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata)


DEFECTS: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: path.unlink(missing_ok=True),
    "empty": _empty,
    "text": _text,
    "no metadata": _bare,
    "no state": _metadata(config="{}"),
    "broken json": _metadata(config="{", state="{}"),
    "unknown key": _metadata(config='{"model": {"width": 3}}', state="{}"),
    "no table": _metadata(config="3", state="{}"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_is_no_checkpoint_is_refused(path: Path, defect: str) -> None:
    DEFECTS[defect](path)
    with pytest.raises(CheckpointError, match=rf"{path.name}: not a readable checkpoint"):
        checkpoints.load(path)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.999])
def test_a_torn_file_is_refused(path: Path, part: float) -> None:
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoints.load(path)


def test_a_changed_byte_is_noticed_or_changes_nothing(path: Path) -> None:
    saved(path)
    content, whole = path.read_bytes(), checkpoints.load(path)
    for at in random.Random(0).sample(range(len(content)), 300):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            found = checkpoints.load(path)
        except CheckpointError:
            continue
        # White space at the end of the header becomes other white space, or the checksum another name.
        assert (found.config, found.state) == (whole.config, whole.state)
        assert found.tensors.keys() == whole.tensors.keys()
        assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in found.tensors.items())


def test_a_file_without_checksum_is_read(path: Path) -> None:
    saved(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "sha256"}
    safetensors.torch.save_file(checkpoints.load(path).tensors, path, metadata)
    assert checkpoints.load_network(path)[1].state["step"] == 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.tensors.pop("ema.head.weight"),
        lambda found: found.tensors.update({"ema.head.weight": torch.zeros(1)}),
        lambda found: found.tensors.update({"ema.extra": torch.zeros(1)}),
        lambda found: found.state.pop("ranking"),
        lambda found: found.state.update({"ranking": [0, 0]}),
    ],
    ids=["missing tensor", "wrong shape", "extra tensor", "no ranking", "bad ranking"],
)
def test_weights_that_do_not_fit_are_refused(path: Path, spoil: Callable[[Checkpoint], Any]) -> None:
    saved(path)
    found = checkpoints.load(path)
    spoil(found)
    checkpoints.save(path, found)
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.load_network(path)


# ---- a run's files


def test_a_runs_checkpoints_newest_first(tmp_path: Path) -> None:
    for name in (
        "checkpoint-0000009", "checkpoint-0000010", "checkpoint-10000000", "checkpoint-", "checkpoint-best", "weights",
    ):  # fmt: skip
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / ".checkpoint-0000011.safetensors-k2j3").touch()  # what a killed write leaves
    (tmp_path / "checkpoint-0000012.txt").touch()
    assert [path.stem for path in checkpoints.saved_steps(tmp_path)] == [
        "checkpoint-10000000", "checkpoint-0000010", "checkpoint-0000009",
    ]  # fmt: skip


def test_a_run_that_has_not_begun_has_none(tmp_path: Path) -> None:
    assert checkpoints.saved_steps(tmp_path) == checkpoints.saved_steps(tmp_path / "missing") == []
