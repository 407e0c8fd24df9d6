"""What a run starts with."""

import logging
from typing import Any

import pytest
import torch
from torch.nn import functional

from quantsr import checkpoint as checkpoints
from quantsr import train
from quantsr.checkpoint import CheckpointError
from quantsr.config import TrainConfig
from quantsr.quant import quantized_layers
from quantsr.train import Trainer
from train.runs import DQA, FLOAT, SWIN, W2A2, W4A4, Make, folder_of, weights_of


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


def test_fresh_tensors_are_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    source = make({"model": {"upscale": 4}}, W4A4)
    train.run(source)
    init = {"run": {"init": str(folder_of(source) / "weights.safetensors")}}
    with caplog.at_level(logging.WARNING):
        list(train.run_stages([make(W4A4, init, folder="next")]))
    told = [record.getMessage() for record in caplog.records if "freshly initialised" in record.getMessage()]
    assert told == ["not in run.init, so freshly initialised: upsampler.0.bias, upsampler.0.weight"]


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


@pytest.mark.parametrize("change", [{"model": {"channels": 4}}, SWIN], ids=["channels", "backbone"])
def test_a_start_of_which_no_layer_fits_is_refused(make: Make, change: dict[str, dict[str, Any]]) -> None:
    source = make()
    train.run(source)
    with pytest.raises(CheckpointError, match=r"run\.init: no layer of the body fits this network"):
        started_from(make, source, change)


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


def test_a_run_at_full_depth_between_leaves_the_ranking(make: Make) -> None:
    source = make(DQA, folder="dqa")
    train.run(source)
    set_ranking(source, [2, 0, 3, 1])
    full = make(W4A4, {"model": {"blocks": 4}, "run": {"init": str(folder_of(source) / "weights.safetensors")}})
    train.run(full)
    set_gains(full, 1.2, 0.7, 1.0, 0.9)
    assert started_from(make, full, DQA).network.ranking == (2, 0, 3, 1)


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
