import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr import checkpoint as checkpoints
from quantsr import config as configs
from quantsr import images, metrics, train
from quantsr.config import OptimConfig
from quantsr.data.patches import Photo
from quantsr.quant import quantized_layers
from quantsr.train import Trainer
from train.runs import DQA, FLOAT, MUON, SWIN, W2A2, W4A4, Make, folder_of

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


def test_photographs_that_come_and_go_change_what_is_held_out(
    make: Make, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train.run(make())
    assert "held out now" not in caplog.text
    shutil.copy(photos / "7.png", photos / "00.png")  # the others move on by one
    train.run(make({"optim": {"steps": 13}}), resume=True)
    assert "held out now but not before, as the folder changed: 3.png, 7.png" in caplog.text


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
    torch.testing.assert_close(trainer.loss(lr, hr)[0], wanted)


def test_depths_weigh_the_same_by_default(make: Make) -> None:
    trainer = Trainer(make(DQA, {"run": {"bf16": False}}))
    lr, hr = trainer.sampler(0)
    parts = [functional.l1_loss(trainer.network(lr, depth=count), hr) for count in (4, 2, 1)]
    torch.testing.assert_close(trainer.loss(lr, hr)[0], sum(parts) / 3)


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
