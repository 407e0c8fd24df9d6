"""Losses, gradients and weights that are not finite."""

import json
import logging
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantsr import checkpoint as checkpoints
from quantsr import train
from quantsr.checkpoint import CheckpointError
from quantsr.train import Trainer
from train.runs import W4A4, Make, folder_of


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], how: Callable[[Tensor], Tensor]) -> None:
    """Makes the loss of some steps non-finite."""
    update = Trainer.update

    def poisoned(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        loss = trainer.loss
        with pytest.MonkeyPatch.context() as patch:
            if trainer.step in steps:
                patch.setattr(trainer, "loss", lambda lr, hr: (how(loss(lr, hr)[0]), 0.0))
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
