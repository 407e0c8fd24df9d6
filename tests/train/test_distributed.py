"""Two processes under torchrun against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantsr import checkpoint as checkpoints
from quantsr import config as configs
from quantsr import train
from quantsr.train import Trainer

SCRIPT = """
import json, os, signal, sys
import torch
from quantsr import config, train
from quantsr.train import distributed
torch.set_num_threads(1)
tables, folder = json.load(open(sys.argv[1])), sys.argv[2]
settings = config.from_dict(tables)
workers = distributed.join("cpu")
trainer = train.Trainer(settings, workers)
trainer.optimizer.step = lambda: None
loss = trainer.update(*trainer.sampler(0, workers.share))
gradients = {name: p.grad for name, p in trainer.network.named_parameters()}
other = train.start_network(settings, None, trainer.sampler)
if workers.rank:
    other.requires_grad_(False).apply(lambda module: [p.zero_() for p in module.parameters(recurse=False)])
    other.body[0].conv1.act_quantizer.calibrated = False
    other.set_ranking([0, 1, 2, 3])
workers.agree(other)
torch.save((other.state_dict(), other.ranking), f"{folder}/agreed-{workers.rank}.pt")
torch.save((loss, gradients), f"{folder}/{workers.rank}.pt")
train.run(settings)
tables["run"]["folder"] += "-stopped"
os.makedirs(tables["run"]["folder"], exist_ok=True)
trainer = train.Trainer(config.from_dict(tables), workers)
update = trainer.update
def asked(*batch):
    if workers.rank and trainer.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return update(*batch)
trainer.update = asked
try:
    trainer.train()
except KeyboardInterrupt as stop:
    open(f"{folder}/stopped-{workers.rank}", "w").write(str(stop))
distributed.leave()
"""


@pytest.fixture
def tables(tmp_path: Path, photos: Path) -> dict[str, dict[str, object]]:
    return {
        "model": {"upscale": 2, "channels": 8, "blocks": 4},
        "quant": {"weight_bits": 4, "act_bits": 4},
        "data": {"photos": str(photos), "cache": str(tmp_path / "cache"), "holdout": 4, "patch": 8, "batch": 4},
        "optim": {"steps": 6, "warmup": 2, "ema": 0.5, "gradient_clip": 0.0},
        "run": {"folder": str(tmp_path / "two"), "threads": 1, "bf16": False, "checkpoint_every": 4,
                "calibration_batches": 1, "depths": ["full", "half"]},
    }  # fmt: skip


def test_two_processes_make_the_step_of_one(tables: dict[str, dict[str, object]], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "config.json").write_text(json.dumps(tables))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / name) for name in ("script.py", "config.json", "")]
    source = str(Path(train.__file__).parents[2])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    tables["run"]["folder"] = str(tmp_path / "one")
    config = configs.from_dict(tables)
    trainer = Trainer(config)
    trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
    wanted_loss = trainer.update(*trainer.sampler(0))
    for rank in (0, 1):
        loss, gradients = torch.load(tmp_path / f"{rank}.pt")
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        for name, parameter in trainer.network.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)

    (first, ranking), (second, agreed) = (torch.load(tmp_path / f"agreed-{rank}.pt") for rank in (0, 1))
    assert ranking == agreed != (0, 1, 2, 3)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    train.run(config)
    one, two = (checkpoints.load(tmp_path / folder / "weights.safetensors") for folder in ("one", "two"))
    assert two.state["step"] == 6
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=0.02, atol=2e-3, msg=name)
    assert len(train.read_log(tmp_path / "two")) == len(train.read_log(tmp_path / "one"))  # process 0 alone writes

    stopped = f"{tmp_path / 'two-stopped'} is at step 3; --resume goes on"  # both, though one was asked
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in (0, 1)] == [stopped, stopped]
    assert [path.name for path in checkpoints.saved_steps(tmp_path / "two-stopped")] == [
        "checkpoint-0000003.safetensors"
    ]


def test_a_batch_must_split_evenly(tables: dict[str, dict[str, object]]) -> None:
    from quantsr.train.distributed import Workers

    with pytest.raises(ValueError, match=r"got data\.batch 4, wanted a multiple of the 3 processes"):
        Trainer(configs.from_dict(tables), Workers(0, 3))
