import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from quantsr import checkpoint as checkpoints
from quantsr import images, train
from quantsr.checkpoint import CheckpointError
from quantsr.config import TeacherConfig, TrainConfig
from quantsr.models.edsr import EDSR
from quantsr.train import Trainer
from quantsr.train.teachers import load_teacher
from train.runs import DQA, W2A2, Make, folder_of, weights_of


def test_a_checkpoint_teaches(make: Make) -> None:
    x4 = {"model": {"upscale": 4}}
    teacher = make(x4, folder="teacher")
    train.run(teacher)
    taught = {"teacher": {"weights": str(folder_of(teacher) / "weights.safetensors"), "weight": 0.25}}
    trainer = Trainer(make(x4, W2A2, taught, {"run": {"bf16": False}}))
    assert isinstance(trainer.loss.teacher, EDSR) and not trainer.loss.teacher.training
    assert not any(p.requires_grad for p in trainer.loss.teacher.parameters())
    lr, hr = trainer.sampler(0)
    sr, wanted = trainer.network(lr), trainer.loss.teacher(lr)
    loss = 0.75 * functional.l1_loss(sr, hr) + 0.25 * functional.l1_loss(sr, wanted)
    torch.testing.assert_close(trainer.loss(lr, hr)[0], loss)
    before = {name: tensor.clone() for name, tensor in trainer.loss.teacher.state_dict().items()}
    trainer.update(lr, hr)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.loss.teacher.state_dict().items())


def test_a_teacher_alone_says_what_unpaired_photographs_become(make: Make) -> None:
    teacher = make({"optim": {"steps": 2}}, folder="teacher")
    train.run(teacher)
    taught = {"weights": str(folder_of(teacher) / "weights.safetensors"), "weight": 1.0, "views": 2}
    config = make(DQA, {"data": {"unpaired": [0.8]}, "teacher": taught, "run": {"bf16": False}})
    trainer = Trainer(config)
    assert sum(photo.hr is None for photo in trainer.train_photos) == 6
    assert all(photo.hr is not None for photo in trainer.val_photos)
    lr, hr = trainer.sampler(0)
    assert hr is None
    wanted = trainer.loss.teacher(lr)
    distances = [functional.l1_loss(trainer.network(lr, depth=depth), wanted) for depth in config.run.depths]
    torch.testing.assert_close(trainer.loss(lr, hr)[0], torch.stack(distances).mean())
    train.run(config)
    state = weights_of(config).state
    told = f"checkpoint: {folder_of(teacher).name}, 1 of the loss, mean over 2 views"
    assert state["step"] == 12 and state["history"][-1]["teacher"] == told


def test_a_teacher_of_a_smaller_factor_is_refused(make: Make) -> None:
    teacher = make({"optim": {"steps": 2}}, folder="teacher")
    train.run(teacher)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: got a teacher of x2, wanted x3 or more"):
        Trainer(
            make({"model": {"upscale": 3}, "teacher": {"weights": str(folder_of(teacher) / "weights.safetensors")}})
        )


@pytest.mark.parametrize("upscale", [2, 4])
def test_the_mean_over_all_views_turns_with_the_image(make: Make, upscale: int) -> None:
    large = make({"model": {"upscale": 4}, "optim": {"steps": 2}}, folder="teacher")
    train.run(large)
    path = folder_of(large) / "weights.safetensors"
    weights = {"weights": str(path), "views": 8}
    teacher = load_teacher(make({"model": {"upscale": upscale}, "teacher": weights}), torch.device("cpu"))
    lr = torch.rand(2, 3, 9, 12)
    turned = torch.stack([teacher(lr.rot90(turns, (2, 3))).rot90(-turns, (2, 3)) for turns in range(4)])
    mirrored = teacher(lr.flip(3)).flip(3)
    torch.testing.assert_close(turned, teacher(lr).expand_as(turned), rtol=0, atol=1e-6)
    torch.testing.assert_close(mirrored, teacher(lr), rtol=0, atol=1e-6)
    if upscale == 4:
        network = checkpoints.load_network(path)[0]
        assert (network(lr) - teacher(lr)).abs().max() > 1e-4
        two = load_teacher(make({"model": {"upscale": 4}, "teacher": weights | {"views": 2}}), torch.device("cpu"))
        seen = network(lr.transpose(2, 3).flip(2, 3)).flip(2, 3).transpose(2, 3)
        torch.testing.assert_close(two(lr), (network(lr) + seen) / 2, rtol=0, atol=1e-6)


def test_rlfn_wants_patches_of_some_size(make: Make, data_folder: Path) -> None:
    weights = str(data_folder / "weights" / "rlfn" / "team04_rlfn.pth")
    config = make({"model": {"upscale": 4}, "data": {"patch": 12}, "teacher": {"weights": weights, "kind": "rlfn"}})
    with pytest.raises(CheckpointError, match=r"team04_rlfn\.pth: got patches of 12 pixels.*raise data\.patch"):
        Trainer(config)


@pytest.mark.parametrize("upscale", [2, 3])
def test_a_teacher_of_a_larger_factor_is_shrunk(make: Make, upscale: int) -> None:
    large = make({"model": {"upscale": 4}, "optim": {"steps": 2}}, folder="teacher")
    train.run(large)
    path = folder_of(large) / "weights.safetensors"
    small = make({"model": {"upscale": upscale}, "teacher": {"weights": str(path), "feature_weight": 0.1}})
    teacher, network = load_teacher(small, torch.device("cpu")), checkpoints.load_network(path)[0]
    lr = 0.4 + 0.2 * torch.rand(2, 3, 9, 12)  # nothing is clipped in bytes
    taught = teacher(lr)
    assert taught.shape == (2, 3, 9 * upscale, 12 * upscale) and teacher.trunk is teacher.network.trunk
    for image, wide in zip(taught, network(lr), strict=True):
        shrunk = images.shrink(images.to_uint8(wide.permute(1, 2, 0).detach().numpy()), upscale / 4)
        assert np.abs(images.to_float(shrunk) - image.permute(1, 2, 0).numpy()).max() < 1.5 / 255
    assert math.isfinite(Trainer(small).update(*Trainer(small).sampler(0)))


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_rlfn_teaches(make: Make, data_folder: Path, upscale: int) -> None:
    weights = str(data_folder / "weights" / "rlfn" / "team04_rlfn.pth")
    changes = {"model": {"upscale": upscale}, "data": {"patch": 16}, "teacher": {"weights": weights, "kind": "rlfn"}}
    trainer = Trainer(make(changes))
    assert trainer.loss.teacher is not None and not any(p.requires_grad for p in trainer.loss.teacher.parameters())
    lr, hr = trainer.sampler(0)
    taught = trainer.loss._taught(lr)
    assert taught is not None and taught.shape == hr.shape and taught.dtype == torch.float32
    assert functional.l1_loss(taught, hr) < 0.5 * (hr - hr.mean()).abs().mean()  # it does enlarge
    assert math.isfinite(trainer.update(lr, hr))


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, form: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Hostile(canary)))
    else:
        torch.save({"fea_conv.weight": Hostile(canary)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"weights\.pth: not RLFN x4 weights"):
        load_teacher(TrainConfig(teacher=TeacherConfig(weights=str(path), kind="rlfn")), torch.device("cpu"))
    assert not canary.exists()
    path.unlink()
    path.write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(CheckpointError):
        load_teacher(TrainConfig(teacher=TeacherConfig(weights=str(path), kind="checkpoint")), torch.device("cpu"))
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # the file is indeed hostile
    assert canary.exists()


UNFIT: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("no weights at all"),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a list": lambda path: torch.save([torch.zeros(3)], path),
    "other weights": lambda path: torch.save(nn.Conv2d(3, 3, 3).state_dict(), path),
    "torn": lambda path: (torch.save(EDSR().state_dict(), path), path.write_bytes(path.read_bytes()[:-5000])),
}


@pytest.mark.parametrize("kind", ["rlfn", "checkpoint"])
@pytest.mark.parametrize("unfit", UNFIT)
def test_unfit_teachers_are_refused(tmp_path: Path, unfit: str, kind: str) -> None:
    path = tmp_path / "weights.pth"
    UNFIT[unfit](path)
    with pytest.raises(
        CheckpointError, match=r"weights\.pth: .*No such file" if unfit == "missing" else r"weights\.pth: "
    ):
        load_teacher(TrainConfig(teacher=TeacherConfig(weights=str(path), kind=kind)), torch.device("cpu"))
