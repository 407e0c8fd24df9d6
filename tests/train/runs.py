"""Tiny runs: their settings, what they leave, and how they die."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsr import checkpoint as checkpoints
from quantsr import train
from quantsr.checkpoint import Checkpoint
from quantsr.config import TrainConfig
from quantsr.train import Trainer

Make = Callable[..., TrainConfig]

FLOAT: dict[str, dict[str, Any]] = {}
W2A2: dict[str, dict[str, Any]] = {"quant": {"weight_bits": 2, "act_bits": 2}}
W4A4: dict[str, dict[str, Any]] = {"quant": {"weight_bits": 4, "act_bits": 4}}
DQA = W4A4 | {"model": {"blocks": 4}, "run": {"depths": ["full", "half", "quarter"]}}
MUON: dict[str, dict[str, Any]] = {"optim": {"method": "muon"}}
SWIN: dict[str, dict[str, Any]] = {
    "model": {"backbone": "swinir", "channels": 8, "blocks": 2, "layers": 2, "heads": 2, "window": 4}
}
SWIN_DQA = SWIN | {"quant": {}, "run": {"depths": ["full", "half"]}}
KINDS = pytest.mark.parametrize("kind", [FLOAT, W2A2, DQA, MUON], ids=["float", "W2A2", "three depths", "Muon"])


def folder_of(config: TrainConfig) -> Path:
    return Path(config.run.folder)


def weights_of(config: TrainConfig) -> Checkpoint:
    return checkpoints.load(folder_of(config) / "weights.safetensors")


def steps_saved(config: TrainConfig) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in checkpoints.saved_steps(folder_of(config))]


def assert_same_end(one: TrainConfig, two: TrainConfig) -> None:
    """Both runs ended with bit-equal weights, averages and optimiser states."""
    for name in ("weights", f"checkpoint-{one.optim.steps:07d}"):
        a, b = (checkpoints.load(folder_of(config) / f"{name}.safetensors") for config in (one, two))
        assert a.state == b.state and a.state["step"] == one.optim.steps
        assert a.tensors.keys() == b.tensors.keys()
        assert [key for key in a.tensors if not torch.equal(a.tensors[key], b.tensors[key])] == []


class Killed(BaseException):
    """What the tests throw to end a run at some step."""


def run_until(config: TrainConfig, step: int, *, resume: bool = False) -> None:
    """Runs a training that dies when it is about to make a step."""
    update = Trainer.update

    def dying(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        if trainer.step == step:
            raise Killed
        return update(trainer, lr, hr)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "update", dying)
        train.run(config, resume=resume)
