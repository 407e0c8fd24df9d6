import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr import checkpoint as checkpoints
from quantsr import config as configs
from quantsr import images, metrics, train
from quantsr.checkpoint import Checkpoint, CheckpointError
from quantsr.config import OptimConfig, TeacherConfig, TrainConfig
from quantsr.data.patches import Photo
from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinIR
from quantsr.progress import RunLog
from quantsr.quant import quantized_layers
from quantsr.teachers import load_teacher
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


@pytest.fixture
def make(tmp_path: Path, photos: Path) -> Make:
    """make(*tables, folder="run"): a config of a tiny x2 run of 12 steps, changed by the tables given."""

    def build(*changes: dict[str, dict[str, Any]], folder: str = "run") -> TrainConfig:
        tables: dict[str, dict[str, Any]] = {
            "model": {"upscale": 2, "channels": 8, "blocks": 2},
            "data": {"photos": str(photos), "cache": str(tmp_path / "cache"), "holdout": 4, "patch": 8, "batch": 2},
            "optim": {"steps": 12, "learning_rate": 2e-3, "warmup": 2, "ema": 0.9},
            "run": {"folder": str(tmp_path / folder), "threads": 1, "checkpoint_every": 5, "validate_every": 6,
                    "log_every": 4, "calibration_batches": 2},
        }  # fmt: skip
        for change in changes:
            for section, values in change.items():
                tables.setdefault(section, {}).update(values)
        return configs.from_dict(tables)

    return build


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


# ---- learning


@pytest.mark.parametrize(
    "kind",
    [FLOAT, W4A4, W2A2, SWIN | W4A4, SWIN | MUON | W2A2],
    ids=["float", "W4A4", "W2A2", "SwinIR W4A4", "SwinIR Muon W2A2"],
)
def test_the_loss_falls(make: Make, kind: dict[str, dict[str, Any]]) -> None:
    config = make(kind, {"optim": {"steps": 60}, "run": {"log_every": 10, "validate_every": 60}})
    trainer = train.run(config)
    lines = train.read_log(folder_of(config))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6
    assert losses[-1] < 0.75 * losses[0]
    assert all(np.isfinite(losses))
    assert trainer.validate()["full"] > 12


def test_a_run_leaves_log_checkpoints_and_weights(make: Make) -> None:
    config = make(W4A4)
    train.run(config)
    folder = folder_of(config)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint-0000010.safetensors", "checkpoint-0000012.safetensors", "log.jsonl", "weights.safetensors",
    ]  # fmt: skip
    first, *lines = train.read_log(folder)
    assert configs.from_dict(first["config"]) == config
    assert first["quantized_layers"] == [f"body.{block}.{conv}" for block in (0, 1) for conv in ("conv1", "conv2")]
    assert (first["photos"], first["held_out"]) == (6, 2)
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 12]
    assert [(line["step"], list(line["psnr"])) for line in lines if "psnr" in line] == [(6, ["full"]), (12, ["full"])]
    assert all("seconds" in line for line in lines)
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    assert rates == {step: train.learning_rate(config.optim, step - 1) for step in (4, 8, 12)}  # of the step just made


def test_exported_weights_are_the_average(make: Make) -> None:
    config = make(W4A4)
    trainer = train.run(config)
    network, found = checkpoints.load_network(folder_of(config) / "weights.safetensors")
    assert found.config == config
    assert {name.partition(".")[0] for name in found.tensors} == {"ema"}
    own, averaged = network.state_dict(), trainer.averaged.state_dict()
    assert own.keys() == averaged.keys() and all(torch.equal(own[name], averaged[name]) for name in own)
    assert not torch.equal(network.head.weight, trainer.network.head.weight)
    x = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(network(x), trainer.averaged(x), rtol=1e-4, atol=1e-4)


def test_a_run_is_not_overwritten(make: Make) -> None:
    config = make({"optim": {"steps": 2}})
    train.run(config)
    with pytest.raises(FileExistsError, match="already holds a run: pass --resume, or choose another"):
        train.run(config)


def test_the_held_out_photographs_never_train(make: Make) -> None:
    train_photos, val_photos = train.split_photos(make())
    assert [photo.name for photo in val_photos] == ["0.png", "4.png"]
    assert [photo.name for photo in train_photos] == ["1.png", "2.png", "3.png", "5.png", "6.png", "7.png"]
    more, unchanged = train.split_photos(make({"data": {"shrunk": [0.5]}}))
    assert [(photo.name, photo.size) for photo in more] == [(photo.name, s) for photo in train_photos for s in (1, 0.5)]
    assert [(photo.name, photo.size) for photo in unchanged] == [("0.png", 1), ("4.png", 1)]


def test_one_photograph_is_too_few(make: Make, photos: Path) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="got 0 usable photographs to train on and 1 to validate on"):
        train.run(make())


def test_a_corrupt_photograph_is_reported_and_skipped(
    make: Make, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "5.png").write_bytes((photos / "5.png").read_bytes()[:3000])
    config = make({"optim": {"steps": 2}})
    with caplog.at_level(logging.WARNING):
        trainer = train.run(config)
    assert [r.getMessage() for r in caplog.records if "5.png" in r.getMessage() and "skipped" in r.getMessage()]
    assert len(trainer.train_photos) + len(trainer.val_photos) == 7
    assert trainer.step == 2


# ---- the step


def test_the_loss_is_l1_over_all_depths(make: Make) -> None:
    trainer = Trainer(make(DQA, {"run": {"bf16": False, "depth_weights": [0.5, 0.3, 0.2]}}))
    lr, hr = trainer.sampler(0)
    parts = [functional.l1_loss(trainer.network(lr, depth=depth), hr) for depth in ("full", "half", "quarter")]
    assert len({round(part.item(), 9) for part in parts}) == 3
    wanted = 0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2]
    torch.testing.assert_close(trainer.loss(lr, hr), wanted)


def test_depths_weigh_the_same_by_default(make: Make) -> None:
    trainer = Trainer(make(DQA, {"run": {"bf16": False}}))
    lr, hr = trainer.sampler(0)
    parts = [functional.l1_loss(trainer.network(lr, depth=count), hr) for count in (4, 2, 1)]
    torch.testing.assert_close(trainer.loss(lr, hr), sum(parts) / 3)


def test_the_average_follows_the_weights(make: Make) -> None:
    trainer = Trainer(make(W4A4, {"optim": {"ema": 0.6}}))
    wanted = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
    for step in range(8):
        trainer.update(*trainer.sampler(step))
        trainer.step += 1
        decay = min(0.6, (step + 1) / (step + 10))
        for name, parameter in trainer.network.named_parameters():
            wanted[name] = decay * wanted[name] + (1 - decay) * parameter.detach()
    for name, parameter in trainer.averaged.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-5, atol=1e-7)
        assert not parameter.requires_grad


def test_temperatures_take_equal_shares_of_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(W4A4, {"optim": {"temperatures": [1, 2, 4], "steps": 7}})
    seen: list[set[float]] = []
    update = Trainer.update

    def noting(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        loss = update(trainer, lr, hr)
        layers = quantized_layers(trainer.network).values()
        seen.append({q.temperature for layer in layers for q in (layer.weight_quantizer, layer.act_quantizer)})
        return loss

    monkeypatch.setattr(Trainer, "update", noting)
    train.run(config)
    assert seen == [{1.0}] * 3 + [{2.0}] * 2 + [{4.0}] * 2


def test_a_device_that_is_not_there_is_told_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make({"run": {"device": "cuda"}})
    with pytest.raises(configs.ConfigError, match=r"run\.device: got 'cuda', wanted 'cpu'"):
        train.run(config)
    assert not folder_of(config).exists()


def test_blocks_are_compiled_anew_wherever_quantizers_stand(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    for placement in ("body", "pams"):
        compiled.append(nn.Identity())
        monkeypatch.setattr(torch.compiler, "reset", compiled.clear)
        trainer = Trainer(make(W4A4, {"quant": {"placement": placement}, "run": {"compile": True}}))
        assert compiled == list(trainer.network.body)


@pytest.mark.gpu
def test_a_gpu_makes_the_steps_of_a_cpu(make: Make) -> None:
    ends = []
    for device in ("cpu", "cuda"):
        run = {"device": device, "bf16": False, "compile": device == "cuda"}
        config = make(DQA, {"optim": {"steps": 3}, "run": run}, folder=device)
        train.run(config, minutes=0)
        trainer = train.run(config, resume=True)
        ends.append({name: tensor.cpu() for name, tensor in trainer.network.named_parameters()})
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=0, atol=2e-3, msg=name)


def test_gradients_are_clipped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    for clip in (0.0, 1e-3):
        trainer = Trainer(make({"optim": {"gradient_clip": clip}}))
        monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
        trainer.update(*trainer.sampler(0))
        norms.append(math.hypot(*(p.grad.norm().item() for p in trainer.network.parameters())))
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "settings,step,share",
    [
        ({}, 0, 0.1), ({}, 4, 0.5), ({}, 9, 1.0), ({}, 10, 1.0), ({}, 60, 0.55), ({}, 110, 0.1), ({}, 200, 0.1),
        ({"schedule": "step"}, 59, 1.0), ({"schedule": "step"}, 60, 0.5), ({"schedule": "step"}, 84, 0.5),
        ({"schedule": "step"}, 85, 0.25), ({"schedule": "step"}, 109, 0.125),
        ({"schedule": "step", "milestones": [0.2], "step_factor": 0.1}, 30, 0.1),
        ({"warmup": 0}, 0, 1.0), ({"warmup": 0, "final_rate": 0.0}, 55, 0.5), ({"warmup": 500}, 109, 0.22),
    ],
    ids=str,
)  # fmt: skip
def test_learning_rates(settings: dict[str, Any], step: int, share: float) -> None:
    config = OptimConfig(**({"steps": 110, "warmup": 10, "learning_rate": 2e-3, "final_rate": 0.1} | settings))
    assert train.learning_rate(config, step) == pytest.approx(share * 2e-3, rel=1e-9)


def test_validation_scores_the_average_on_the_centre(
    make: Make, picture: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    trainer = Trainer(make())
    hr = picture(500, 420)
    np.save(tmp_path / "hr.npy", hr)
    np.save(tmp_path / "lr.npy", images.downscale(hr, 2))
    trainer.val_photos = [Photo("made-up", 0, 1.0, tmp_path / "hr.npy", tmp_path / "lr.npy")]
    lr = trainer.val_photos[0].lr[29:221, 9:201]
    sr = trainer.averaged(torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    wanted = metrics.psnr(images.to_uint8(sr), hr[58:442, 18:402], 2)
    assert trainer.validate() == {"full": pytest.approx(wanted, abs=1e-9)}


# ---- interruptions


@KINDS
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_resumed_run_ends_bit_equal(make: Make, kind: dict[str, dict[str, Any]], bf16: bool) -> None:
    whole, broken = (make(kind, {"run": {"bf16": bf16}}, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    run_until(broken, 8)  # the newest checkpoint is that of step 5
    run_until(broken, 11, resume=True)  # that of step 10
    trainer = train.run(broken, resume=True)
    assert trainer.step == 12
    assert_same_end(whole, broken)


def test_a_resumed_transformer_ends_bit_equal(make: Make) -> None:
    whole, broken = (make(SWIN_DQA, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    run_until(broken, 8)
    train.run(broken, resume=True)
    assert_same_end(whole, broken)
    network, found = checkpoints.load_network(folder_of(whole) / "weights.safetensors")
    assert type(network) is SwinIR and len(quantized_layers(network)) == 16
    assert found.config.quant is not None and found.config.quant.placement == "linears"


@pytest.mark.parametrize("torn", [True, False], ids=["torn", "a flipped bit"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    make: Make, caplog: pytest.LogCaptureFixture, torn: bool
) -> None:
    whole, broken = (make(W4A4, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    run_until(broken, 11)
    newest = folder_of(broken) / "checkpoint-0000010.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-100] if torn else content[:-100] + bytes([content[-100] ^ 4]) + content[-99:])
    (folder_of(broken) / ".checkpoint-0000011.safetensors-a1b2").write_bytes(b"half a file")
    trainer = Trainer(broken)
    with caplog.at_level(logging.WARNING):
        assert trainer.resume() and trainer.step == 5
    assert "checkpoint-0000010.safetensors: not a readable checkpoint" in caplog.text
    train.run(broken, resume=True)
    assert_same_end(whole, broken)


@pytest.mark.parametrize(
    "change",
    [W2A2, {"model": {"upsampler": "paper"}}, MUON, {"run": {"depths": ["full", "half"]}}],
    ids=["bits", "upsampler", "optimiser", "depths"],
)
def test_a_run_is_not_resumed_as_another(make: Make, change: dict[str, dict[str, Any]]) -> None:
    run_until(make(W4A4), 6)
    with pytest.raises(CheckpointError, match=r"checkpoint-0000005\.safetensors: got .*not the same run"):
        train.run(make(W4A4, change), resume=True)


def test_a_run_of_which_nothing_can_be_read_is_not_begun_again(make: Make) -> None:
    config = make(W4A4)
    run_until(config, 11)
    saved = [folder_of(config) / f"checkpoint-{step:07d}.safetensors" for step in (5, 10)]
    for path in saved:
        path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="got 2 checkpoints, none readable; move them away"):
        train.run(config, resume=True)
    assert all(path.read_bytes() == b"torn" for path in saved)


def test_a_damaged_checkpoint_does_not_push_out_new_ones(make: Make) -> None:
    config = make(W4A4, {"run": {"keep": 1}})
    run_until(config, 7)
    damaged = folder_of(config) / "checkpoint-0000010.safetensors"
    damaged.write_bytes(b"torn")
    trainer = Trainer(config)
    assert trainer.resume() and trainer.step == 5
    trainer.step = 8
    trainer.save()
    assert steps_saved(config) == [10, 8]


def test_what_a_kill_left_unfinished_goes(make: Make) -> None:
    config = make()
    run_until(config, 6)
    (folder_of(config) / ".0123456789abcdef.tmp").write_bytes(b"half a checkpoint")
    (folder_of(config) / "log.jsonl").open("a").write('{"step": 6, "secon')
    train.run(config, resume=True)
    assert not list(folder_of(config).glob(".*"))
    assert [line["step"] for line in train.read_log(folder_of(config))] == [0, 4, 6, 5, 6, 8, 12, 12]


def test_a_folder_is_of_one_process_at_a_time(make: Make) -> None:
    config = make()
    second = Trainer(config)
    folder_of(config).mkdir()
    with (
        RunLog(folder_of(config), config, resumed_at=0),
        pytest.raises(FileExistsError, match="another process trains"),
    ):
        second.train()
    second.train()
    assert second.step == 12


@pytest.mark.parametrize(
    "change,wanted",
    [
        ({"quant": {"quantizer": "lqs"}}, "lqs"),
        ({"quant": {"quantizer": "lsq", "weight_grid": "mid_rise"}}, "weight_grid"),
        ({"quant": {"quantizer": "lsq"}, "optim": {"temperatures": [1.0]}}, "temperature"),
        ({"teacher": {"weights": "typo"}}, r"teacher\.weights: got 'typo', wanted a file"),
        ({"run": {"init": "typo"}}, r"run\.init: got 'typo', wanted a file"),
        ({"model": {"window": 4}}, r"model\.window"),
    ],
    ids=["quantizer", "option", "temperature", "teacher", "start", "backbone"],
)
def test_what_a_later_stage_would_fail_at_is_found_first(make: Make, change: dict[str, Any], wanted: str) -> None:
    first = make(folder="first")
    start = {"run": {"init": str(folder_of(first) / "weights.safetensors")}}
    with pytest.raises(ValueError, match=wanted):
        list(train.run_stages([first, make(start, change)]))
    assert not folder_of(first).exists()
    assert [trainer.step for trainer in train.run_stages([first, make(start, W4A4)])] == [12, 12]


def test_a_longer_schedule_may_be_resumed(make: Make) -> None:
    train.run(make(W4A4))
    assert train.run(make(W4A4, {"optim": {"steps": 14}}), resume=True).step == 14


def test_a_disk_that_fills_during_a_save_spares_the_checkpoints(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = (make(W4A4, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    run_until(broken, 8)
    before = {path.name: path.read_bytes() for path in folder_of(broken).glob("*.safetensors")}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        train.run(broken, resume=True)
    assert {path.name: path.read_bytes() for path in folder_of(broken).glob("*.safetensors")} == before
    train.run(broken, resume=True)
    assert_same_end(whole, broken)


@pytest.mark.slow
def test_a_killed_process_resumes_bit_equal(make: Make, tmp_path: Path) -> None:
    whole, broken = (make(W4A4, {"run": {"checkpoint_every": 1}}, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    (tmp_path / "config.json").write_text(json.dumps(broken.to_dict()))
    code = (
        "import json, sys, torch; from quantsr import config, train; torch.set_num_threads(1); "
        "train.run(config.from_dict(json.load(open(sys.argv[1]))))"
    )
    source = str(Path(train.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "config.json")], env=os.environ | {"PYTHONPATH": source}
    )
    for _ in range(6000):
        if len(checkpoints.saved_steps(folder_of(broken))) >= 2 or process.poll() is not None:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoints.saved_steps(folder_of(broken))
    train.run(broken, resume=True)
    assert_same_end(whole, broken)


KILLER = """
import json, os, random, sys, time
import torch
from quantsr import config, train
torch.set_num_threads(1)
settings, folder, kills = config.from_dict(json.load(open(sys.argv[1]))), sys.argv[2], 0
random.seed(1)
train.Trainer(settings)  # loads what loads late
start = time.monotonic()
train.Trainer(settings)
ready = time.monotonic() - start  # a child needs as long before its first step
while kills < 100 and not os.path.exists(f"{folder}/weights.safetensors"):
    child = os.fork()
    if child == 0:
        train.run(settings, resume=True)
        os._exit(0)
    time.sleep(random.uniform(0, 5 * ready + 0.1))
    os.kill(child, 9)
    kills += os.waitpid(child, 0)[1] == 9
print(kills)
"""


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_change_nothing(make: Make, tmp_path: Path) -> None:
    often = {"optim": {"steps": 1200}, "run": {"checkpoint_every": 1, "validate_every": 1200}}
    whole, broken = (make(W4A4, often, folder=name) for name in ("whole", "broken"))
    train.run(whole)
    (tmp_path / "config.json").write_text(json.dumps(broken.to_dict()))
    arguments = [str(tmp_path / "config.json"), str(folder_of(broken))]
    source = str(Path(train.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], env=os.environ | {"PYTHONPATH": source}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split()[-1] == b"100"
    assert 3 < max(steps_saved(broken)) < 1200  # they did hit a run under way
    train.run(broken, resume=True)
    assert_same_end(whole, broken)


def test_minutes_stop_the_run_with_a_checkpoint(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, timed = (make(W4A4, folder=name) for name in ("whole", "timed"))
    train.run(whole)
    clock = iter(range(0, 10_000, 10))  # ten seconds at every look
    with monkeypatch.context() as patch:
        patch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        trainer = train.run(timed, minutes=1.25)
    assert trainer.step == 7
    assert steps_saved(timed) == [7, 5]
    assert not (folder_of(timed) / "weights.safetensors").exists()
    train.run(timed, resume=True)
    assert_same_end(whole, timed)


def test_no_minutes_are_no_steps(make: Make) -> None:
    config = make()
    assert train.run(config, minutes=0).step == 0
    assert train.run(config, resume=True).step == 12


def test_resuming_a_finished_run_changes_nothing(make: Make) -> None:
    config = make(W4A4)
    train.run(config)
    before = weights_of(config)
    train.run(config, resume=True)
    after = weights_of(config)
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


def test_a_finished_run_keeps_its_record(make: Make) -> None:
    train.run(make(W4A4))
    shorter = make(W4A4, {"data": {"batch": 3}, "optim": {"steps": 6}})
    assert train.run(shorter, resume=True).step == 12
    assert weights_of(shorter).state["history"][-1]["batch"] == make().data.batch != 3


def test_a_run_may_end_earlier_than_it_has_come(make: Make) -> None:
    run_until(make(W4A4), 11)
    shorter = make(W4A4, {"optim": {"steps": 6}})
    assert train.run(shorter, resume=True).step == 10
    assert weights_of(shorter).state["step"] == 10


def test_a_longer_schedule_that_dies_before_its_export_is_exported(make: Make) -> None:
    train.run(make(W4A4))
    longer = make(W4A4, {"optim": {"steps": 14}})

    def dying(_: Trainer) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "export", dying)
        train.run(longer, resume=True)
    assert weights_of(longer).state["step"] == 12
    train.run(longer, resume=True)
    assert weights_of(longer).state["step"] == 14


def test_resuming_nothing_starts_from_the_beginning(make: Make) -> None:
    one, two = (make(folder=name) for name in ("one", "two"))
    train.run(one)
    train.run(two, resume=True)
    assert_same_end(one, two)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_checkpoints_stay(make: Make, keep: int) -> None:
    config = make({"run": {"keep": keep, "checkpoint_every": 2}})
    train.run(config)
    assert steps_saved(config) == [12, 10, 8][:keep]


# ---- divergence


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], how: Callable[[Tensor], Tensor]) -> None:
    """Makes the loss of some steps non-finite."""
    update = Trainer.update

    def poisoned(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        loss = trainer.loss
        with pytest.MonkeyPatch.context() as patch:
            if trainer.step in steps:
                patch.setattr(trainer, "loss", lambda lr, hr: how(loss(lr, hr)))
            return update(trainer, lr, hr)

    monkeypatch.setattr(Trainer, "update", poisoned)


def infinite_gradient(loss: Tensor) -> Tensor:
    return (loss - loss.detach()).abs().sqrt() + 0.1  # finite, with an infinite slope at 0


POISONS = pytest.mark.parametrize(
    "how",
    [lambda loss: loss * math.nan, lambda loss: loss * math.inf, infinite_gradient],
    ids=["nan", "inf", "gradient"],
)


@POISONS
def test_a_non_finite_step_leaves_everything_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor], Tensor]
) -> None:
    trainer = Trainer(make(W4A4))
    poison(monkeypatch, {3}, how)
    for step in range(3):
        assert math.isfinite(trainer.update(*trainer.sampler(step)))
        trainer.step += 1
    before = {name: tensor.clone() for name, tensor in trainer._tensors().items()}
    assert math.isnan(trainer.update(*trainer.sampler(3)))
    after = trainer._tensors()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@POISONS
def test_a_run_survives_a_few_bad_steps(
    make: Make, monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor], Tensor]
) -> None:
    config = make({"run": {"max_bad_steps": 3}})
    poison(monkeypatch, {2, 3, 4, 6, 7, 8}, how)  # never more than three in a row
    assert train.run(config).step == 12
    for path in [*checkpoints.saved_steps(folder_of(config)), folder_of(config) / "weights.safetensors"]:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoints.load(path).tensors.values())


def test_the_log_stays_plain_json_and_counts_skipped_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    poison(monkeypatch, {1, 4, 5, 6, 7}, lambda loss: loss * math.nan)
    train.run(config)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (folder_of(config) / "log.jsonl").read_text().splitlines()
    lines = [json.loads(line, parse_constant=refuse) for line in text]
    losses = {line["step"]: (line["loss"], line.get("skipped", 0)) for line in lines if "loss" in line}
    assert [skipped for _, skipped in losses.values()] == [1, 4, 0]
    assert losses[8][0] is None and losses[4][0] > 0


def test_too_many_bad_steps_stop_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make({"run": {"max_bad_steps": 3, "checkpoint_every": 2}})
    with monkeypatch.context() as patch:
        poison(patch, set(range(5, 99)), lambda loss: loss * math.nan)
        wanted = r"step 8: 4 non-finite losses in a row, after 3 of 3 rollbacks; lower optim\.learning_rate"
        with pytest.raises(train.TrainingDiverged, match=wanted):
            train.run(config)
    assert not (folder_of(config) / "weights.safetensors").exists()
    assert train.run(config, resume=True).step == 12  # the checkpoints are sound


def test_a_rollback_goes_on_from_the_last_checkpoint_at_half_the_rate(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make({"run": {"max_bad_steps": 1, "checkpoint_every": 4, "log_every": 1}})
    rates: list[tuple[int, float]] = []
    update = Trainer.update

    def once_bad(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        rates.append((trainer.step, trainer.rate(trainer.step)))
        return math.nan if trainer.step in (5, 6) and trainer.rollbacks == 0 else update(trainer, lr, hr)

    monkeypatch.setattr(Trainer, "update", once_bad)
    with caplog.at_level(logging.WARNING):
        trainer = train.run(config)
    assert "step 6: 2 non-finite losses in a row: back to step 4, at 1/2 of the learning rate" in caplog.text
    assert [step for step, _ in rates] == [0, 1, 2, 3, 4, 5, 6, *range(4, 12)]
    full = [train.learning_rate(config.optim, step) for step in range(12)]
    assert [rate for _, rate in rates] == full[:7] + [rate / 2 for rate in full[4:]]
    assert trainer.step == 12
    assert checkpoints.load(checkpoints.saved_steps(folder_of(config))[0]).state["rollbacks"] == 1


def test_without_a_checkpoint_there_is_nothing_to_roll_back_to(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(99)), lambda loss: loss * math.nan)
    with pytest.raises(train.TrainingDiverged, match="step 3: 4 non-finite losses in a row, after 0 of 3 rollbacks"):
        train.run(make({"run": {"max_bad_steps": 3}}))


@pytest.mark.parametrize("part", ["average", "optimiser"])
def test_values_that_go_bad_unseen_are_rolled_back_too(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    config = make({"run": {"checkpoint_every": 2}})
    update = Trainer.update

    def once_bad(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        loss = update(trainer, lr, hr)
        if trainer.step == 7 and not trainer.rollbacks:
            state = trainer.averaged.state_dict() if part == "average" else dict(trainer.optimizer.tensors())
            tensor = next(tensor for tensor in state.values() if tensor.dim() == 4)
            tensor[0, 0, 0, 0] = math.nan
        return loss

    monkeypatch.setattr(Trainer, "update", once_bad)
    with caplog.at_level(logging.WARNING):
        assert train.run(config).step == 12
    assert "step 8: non-finite values in the weights, their average or the optimiser: back to step 6" in caplog.text


def test_non_finite_weights_are_never_saved(make: Make) -> None:
    trainer = Trainer(make())
    folder_of(trainer.config).mkdir()
    trainer.network.head.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"model\.head\.weight holds a non-finite value"):
        trainer.save()
    assert not list(folder_of(trainer.config).iterdir())


# ---- starting from other weights


def started_from(make: Make, source: TrainConfig, *changes: dict[str, dict[str, Any]], folder: str = "next") -> Trainer:
    init = {"run": {"init": str(folder_of(source) / "weights.safetensors")}}
    return Trainer(make(*changes, init, folder=folder))


def test_the_body_moves_between_upscales(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    source = make({"model": {"upscale": 4}})
    train.run(source)
    with caplog.at_level(logging.WARNING):
        network = started_from(make, source).network
    given, own = weights_of(source).part("ema"), network.state_dict()
    assert network.upscale == 2
    for name, tensor in given.items():
        assert torch.equal(own[name], tensor) != name.startswith("upsampler"), name
    assert "upsampler.0.bias, upsampler.0.weight" in caplog.text


def test_other_bits_keep_the_weights_and_calibrate_anew(make: Make) -> None:
    source = make(W4A4)
    train.run(source)
    given = weights_of(source).part("ema")
    trainer = started_from(make, source, W2A2)
    own = trainer.network.state_dict()
    for name, layer in quantized_layers(trainer.network).items():
        assert torch.equal(layer.weight, given[f"{name}.weight"])
        assert layer.weight_quantizer.scale.item() == pytest.approx(2 * layer.weight.abs().mean().item(), rel=1e-5)
        assert layer.act_quantizer.calibrated and not layer.act_quantizer.shift.any()
        for part in ("act_quantizer", "weight_quantizer"):
            assert not torch.equal(own[f"{name}.{part}.scale"], given[f"{name}.{part}.scale"])
    assert train.run(make(W2A2, folder="again")).step == 12


@pytest.mark.parametrize(
    "change", [W2A2, W4A4 | {"quant": W4A4["quant"] | {"act_shift": "none"}}], ids=["bits", "no shift"]
)
def test_shifts_that_are_left_behind_go_into_the_biases(make: Make, change: dict[str, dict[str, Any]]) -> None:
    source = make(W4A4)
    train.run(source)
    path = folder_of(source) / "weights.safetensors"
    found = checkpoints.load(path)
    for name, tensor in found.tensors.items():
        if name.endswith("shift"):
            tensor.copy_(torch.randn_like(tensor))
    checkpoints.save(path, found)
    given, x = found.part("ema"), torch.rand(1, 8, 6, 6)
    for name, layer in quantized_layers(started_from(make, source, change).network).items():
        shifted = x + given[f"{name}.act_quantizer.shift"].view(1, -1, 1, 1)
        wanted = functional.conv2d(shifted, given[f"{name}.weight"], given[f"{name}.bias"])
        torch.testing.assert_close(functional.conv2d(x, layer.weight, layer.bias), wanted, atol=1e-4, rtol=1e-4)
    same = started_from(make, source, W4A4, folder="same").network
    assert all(torch.equal(layer.bias, given[f"{name}.bias"]) for name, layer in quantized_layers(same).items())


def test_equal_bits_keep_the_quantizers(make: Make) -> None:
    source = make(W4A4, {"model": {"upscale": 4}})
    train.run(source)
    given, own = weights_of(source).part("ema"), started_from(make, source, W4A4).network.state_dict()
    body = [name for name in own if name.startswith("body")]
    assert len(body) == 4 * (2 + 3 + 2) + 2
    assert all(torch.equal(own[name], given[name]) for name in body)


def test_quantizing_starts_from_float_weights(make: Make) -> None:
    source = make()
    train.run(source)
    trainer = started_from(make, source, W4A4)
    given = weights_of(source).part("ema")
    assert all(torch.equal(tensor, trainer.network.state_dict()[name]) for name, tensor in given.items())
    assert len(quantized_layers(trainer.network)) == 4
    twin = train.start_network(source, None, trainer.sampler)
    twin.load_state_dict(given)
    x = torch.rand(1, 3, 12, 12)
    assert (trainer.network(x) - twin(x)).abs().mean() < 0.05


@pytest.mark.parametrize("kind", [FLOAT, SWIN, W4A4], ids=["edsr", "swinir", "quantized"])
def test_a_deeper_network_starts_with_the_outputs_of_a_shallower(
    make: Make, kind: dict[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    source = make(kind)
    train.run(source)
    caplog.clear()
    deeper = started_from(make, source, kind, {"model": {"blocks": 5}})
    assert not caplog.records
    shallow, x = checkpoints.load_network(folder_of(source) / "weights.safetensors")[0], torch.rand(1, 3, 8, 8)
    for depth in ("full", "half"):
        torch.testing.assert_close(deeper.network(x, depth=depth), shallow(x), atol=1e-5, rtol=1e-5)
    for step in range(3):
        deeper.update(*deeper.sampler(step))
    moved = [bool(block.last().weight.any()) for block in deeper.network.body]
    assert moved == [True] * 5


def test_blocks_added_to_a_depth_dynamic_network_come_last(make: Make) -> None:
    source = make(DQA, {"model": {"blocks": 4}})
    train.run(source)
    set_ranking(source, [2, 0, 3, 1])
    deeper = started_from(make, source, DQA, {"model": {"blocks": 8}})
    assert deeper.network.ranking == (2, 0, 3, 1, 4, 5, 6, 7)
    shallow, x = checkpoints.load_network(folder_of(source) / "weights.safetensors")[0], torch.rand(1, 3, 8, 8)
    for depth in ("full", "half"):
        torch.testing.assert_close(deeper.network(x, depth=depth), shallow(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "quant,why",
    [
        ({"weight_bits": 2, "weight_grid": "mid_rise"}, "no weight of 0"),
        ({"quantizer": "pams", "placement": "pams"}, "quantizes the shortcut"),
        ({"quantizer": "dorefa"}, "all 0 never learn"),
        ({"quantizer": "pact"}, "all 0 never learn"),
        ({"quantizer": "ddtb"}, "all 0 never learn"),
    ],
)
def test_blocks_that_cannot_be_the_identity_are_not_added(make: Make, quant: dict[str, Any], why: str) -> None:
    source = make(FLOAT)
    train.run(source)
    with pytest.raises(CheckpointError, match=f"got fewer blocks, wanted as many: .*{why}"):
        started_from(make, source, W4A4, {"quant": quant, "model": {"blocks": 4}})


@pytest.mark.parametrize("quantizer", ["lsq", "pams", "daq"])
def test_added_blocks_learn_whatever_the_quantizer(make: Make, quantizer: str) -> None:
    source = make(FLOAT)
    train.run(source)
    deeper = started_from(make, source, W4A4, {"quant": {"quantizer": quantizer}, "model": {"blocks": 4}})
    for step in range(3):
        deeper.update(*deeper.sampler(step))
    assert all(bool(block.last().weight.any()) for block in deeper.network.body)


def test_a_deeper_start_is_refused(make: Make) -> None:
    source = make(DQA, {"model": {"blocks": 4}})
    train.run(source)
    with pytest.raises(CheckpointError, match=r"run\.init: got 4 blocks, wanted at most 2"):
        started_from(make, source, W4A4)


def set_ranking(config: TrainConfig, ranking: list[int]) -> None:
    path = folder_of(config) / "weights.safetensors"
    found = checkpoints.load(path)
    found.state["ranking"] = ranking
    checkpoints.save(path, found)


def set_gains(config: TrainConfig, *gains: float) -> None:
    path = folder_of(config) / "weights.safetensors"
    found = checkpoints.load(path)
    for block, gain in enumerate(gains):
        found.tensors[f"ema.body.{block}.gain"].fill_(gain)
    checkpoints.save(path, found)


def test_several_depths_rank_the_blocks_of_their_source(make: Make) -> None:
    source = make(W4A4, {"model": {"blocks": 4}})
    train.run(source)
    set_gains(source, 1.2, 0.7, 1.0, 0.9)
    trainer = started_from(make, source, DQA)
    assert trainer.network.ranking == trainer.averaged.ranking == (1, 3, 2, 0)
    folder_of(trainer.config).mkdir()
    trainer.save()
    set_gains(source, 1.0, 2.0, 3.0, 4.0)
    again = Trainer(trainer.config)
    assert again.network.ranking == (0, 1, 2, 3)
    assert again.resume() and again.network.ranking == again.averaged.ranking == (1, 3, 2, 0)


# ---- teachers


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
    torch.testing.assert_close(trainer.loss(lr, hr), loss)
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
    torch.testing.assert_close(trainer.loss(lr, hr), torch.stack(distances).mean())
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
    with pytest.raises(CheckpointError, match=r"weights\.pth: "):
        load_teacher(TrainConfig(teacher=TeacherConfig(weights=str(path), kind=kind)), torch.device("cpu"))


# ---- ranking


def test_rules_of_ranking(make: Make) -> None:
    config = make(DQA)
    network = checkpoints.build(config.model)
    for block, gain in zip(network.body, [1.2, 0.7, 1.0, 0.9], strict=True):
        block.gain.data.fill_(gain)
    assert train.rank_blocks(network, "small-gain", []) == (1, 3, 2, 0)
    assert train.rank_blocks(network, "large-gain", []) == (0, 2, 3, 1)


def test_sensitive_blocks_come_first(make: Make) -> None:
    trainer = Trainer(make({"model": {"blocks": 4}}))
    network, batch = trainer.network, trainer.sampler(0)
    with torch.no_grad():
        for block, strength in zip(network.body, [0.0, 3.0, 1.0, 2.0], strict=True):
            block.conv2.weight.mul_(strength)
            block.conv2.bias.mul_(strength)
        network.upsampler[0].weight.mul_(5)
        batch = (batch[0], network(batch[0]))  # the network is right as it is, so that each missing block harms
    assert train.rank_blocks(network, "sensitivity", [batch]) == (1, 3, 2, 0)
    assert train.rank_blocks(network, "sensitivity", [batch, batch]) == (1, 3, 2, 0)
