"""Runs that are killed, torn, cut short or continued end as unbroken ones do."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsr import checkpoint as checkpoints
from quantsr import train
from quantsr.checkpoint import CheckpointError
from quantsr.config import TrainConfig
from quantsr.models.swinir import SwinIR
from quantsr.quant import quantized_layers
from quantsr.train import Trainer
from quantsr.train.progress import RunLog
from train.runs import (
    KINDS,
    MUON,
    SWIN_DQA,
    W2A2,
    W4A4,
    Killed,
    Make,
    assert_same_end,
    folder_of,
    run_until,
    steps_saved,
    weights_of,
)


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


def asked(config: TrainConfig, step: int, *signals: signal.Signals) -> None:
    """Runs a training to which signals come while it makes a step."""
    update = Trainer.update

    def interrupted(trainer: Trainer, lr: Tensor, hr: Tensor) -> float:
        if trainer.step == step:
            for number in signals:
                os.kill(os.getpid(), number)
        return update(trainer, lr, hr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        train.run(config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_run_that_is_asked_to_stop_loses_no_step(make: Make, number: signal.Signals) -> None:
    whole, stopped = (make(W4A4, folder=name) for name in ("whole", "stopped"))
    train.run(whole)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match=r"stopped is at step 8; --resume goes on$"):
        asked(stopped, 7, number)
    assert steps_saved(stopped)[0] == 8
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train.run(stopped, resume=True)
    assert_same_end(whole, stopped)


def test_asked_twice_it_ends_at_once(make: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        asked(make(W4A4), 7, signal.SIGINT, signal.SIGINT)
    assert steps_saved(make(W4A4))[0] == 5


def test_no_stage_begins_after_a_stop(make: Make) -> None:
    stages = two_stages(make, 4, W4A4)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"first is at step 4$"):
        patch.setattr(Trainer, "export", lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
        list(train.run_stages(stages))
    assert not folder_of(stages[1]).exists()


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


def test_the_settings_that_differ_are_named(make: Make) -> None:
    run_until(make(W4A4), 6)
    wanted = r"got quant\.weight_bits 4, wanted 2; quant\.act_bits 4, wanted 2: not the same run; .*by run\.init$"
    with pytest.raises(CheckpointError, match=wanted):
        train.run(make(W2A2), resume=True)


def two_stages(make: Make, steps: int, quantized: dict[str, dict[str, Any]]) -> list[TrainConfig]:
    first = make({"optim": {"steps": steps}}, folder="first")
    init = {"run": {"init": str(folder_of(first) / "weights.safetensors")}}
    return [first, make(quantized, init, folder="second")]


def test_a_later_stage_of_other_settings_is_found_first(make: Make) -> None:
    list(train.run_stages(two_stages(make, 4, W4A4)))
    changed = two_stages(make, 8, W2A2)
    with pytest.raises(CheckpointError, match="not the same run"):
        list(train.run_stages(changed, resume=True))
    assert steps_saved(changed[0])[0] == 4


def test_a_later_stage_that_has_begun_is_found_first(make: Make) -> None:
    stages = two_stages(make, 4, W4A4)
    list(train.run_stages(stages))
    shutil.rmtree(folder_of(stages[0]))
    with pytest.raises(FileExistsError, match="second already holds a run"):
        list(train.run_stages(stages))
    assert not folder_of(stages[0]).exists()


def test_a_stage_that_began_before_its_start_went_on_is_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    list(train.run_stages(two_stages(make, 4, W4A4)))
    list(train.run_stages(two_stages(make, 4, W4A4), resume=True))
    assert "went on" not in caplog.text
    list(train.run_stages(two_stages(make, 8, W4A4), resume=True))
    assert "second began before the stage before it went on; move it away to train it anew" in caplog.text


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
        ({"teacher": {"weights": __file__}}, r"test_interruptions\.py: not a readable checkpoint"),
        ({"run": {"init": __file__}}, r"test_interruptions\.py: not a readable checkpoint"),
        ({"data": {"photos": "nowhere"}}, r"data\.photos: got 'nowhere', wanted a folder"),
        ({"model": {"blocks": 1}}, r"run\.init: got 2 blocks, wanted at most 1"),
        ({"model": {"channels": 6}}, r"run\.init: no layer of the body fits this network"),
        ({"model": {"blocks": 3}, "quant": {"quantizer": "dorefa"}}, r"weights that are all 0 never learn"),
        ({"model": {"upscale": 4}, "teacher": {"weights": "stage"}}, r"got a teacher of x2, wanted x4 or more"),
    ],
    ids=["quantizer", "option", "temperature", "teacher", "start", "backbone", "no teacher", "no start", "photographs",
         "depth", "width", "growth", "a teacher that enlarges less"],
)  # fmt: skip
def test_what_a_later_stage_would_fail_at_is_found_first(make: Make, change: dict[str, Any], wanted: str) -> None:
    first = make(folder="first")
    weights = str(folder_of(first) / "weights.safetensors")
    if change.get("teacher") == {"weights": "stage"}:
        change = change | {"teacher": {"weights": weights}}
    with pytest.raises(ValueError, match=wanted):
        list(train.run_stages([first, make({"run": {"init": weights}}, change)]))
    assert not folder_of(first).exists()


def test_a_resumed_run_is_not_calibrated_and_ranked_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(folder="source")
    train.run(source)
    start = {"run": {"init": str(folder_of(source) / "weights.safetensors"), "depths": ["full", "half"]}}
    config = make(W4A4, {"model": {"blocks": 4}}, start)
    run_until(config, 8)
    monkeypatch.delattr("quantsr.train.start.calibrate")
    monkeypatch.delattr("quantsr.train.start.rank_blocks")
    (folder_of(source) / "weights.safetensors").unlink()
    (trainer,) = train.run_stages([config], resume=True)
    assert trainer.step == 12
    assert [
        stage["steps"] for stage in checkpoints.load(folder_of(config) / "weights.safetensors").state["history"]
    ] == [12, 12]


def test_a_later_stage_may_start_from_what_is_not_there_yet(make: Make) -> None:
    first = make(folder="first")
    start = {"run": {"init": str(folder_of(first) / "weights.safetensors")}}
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
    source = str(Path(train.__file__).parents[2])
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
    source = str(Path(train.__file__).parents[2])
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
        patch.setattr("quantsr.train.stopping.time", SimpleNamespace(monotonic=lambda: next(clock)))
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
