"""recipes/rebase.py: NEW + (QUANTIZED - BASE)."""

import subprocess
import sys
from pathlib import Path

import torch

from quantsr import checkpoint
from quantsr import config as configs
from quantsr.checkpoint import Checkpoint
from quantsr.quant import quantize

SCRIPT = Path(__file__).parents[1] / "recipes/rebase.py"
TABLES = {"model": {"channels": 8, "blocks": 2}}


def saved(path: Path, seed: int, **tables: dict[str, object]) -> Checkpoint:
    """A network of random weights, not calibrated."""
    torch.manual_seed(seed)
    config = configs.from_dict(TABLES | tables)
    network = checkpoint.build(config.model)
    if config.quant is not None:
        quantize(network, config.quant)
    tensors = {f"ema.{name}": t for name, t in network.state_dict().items()}
    state = {"step": 1, "ranking": [seed % 2, 1 - seed % 2], "history": [{"steps": step} for step in range(seed)]}
    checkpoint.save(path, Checkpoint(config, state, tensors))
    return checkpoint.load(path)


def run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *(folder / name for name in names), "-o", folder / "rebased"]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_what_was_learned_moves(tmp_path: Path) -> None:
    new, base = saved(tmp_path / "new", 1), saved(tmp_path / "base", 2)
    quantized = saved(tmp_path / "quantized", 3, quant={})
    done = run(tmp_path, "new", "base", "quantized")
    assert done.returncode == 0, done.stderr
    rebased = checkpoint.load(tmp_path / "rebased")
    assert rebased.config == quantized.config and rebased.state["ranking"] == [1, 0]
    assert [stage["steps"] for stage in rebased.state["history"]] == [0, 2]
    assert set(rebased.tensors) == set(quantized.tensors)
    for name, tensor in rebased.tensors.items():
        if name in base.tensors:
            wanted = new.tensors[name] + quantized.tensors[name] - base.tensors[name]
            torch.testing.assert_close(tensor, wanted)
        else:
            assert torch.equal(tensor, quantized.tensors[name])


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "new", 1)
    saved(tmp_path / "base", 2, model={"channels": 4, "blocks": 2})
    saved(tmp_path / "quantized", 3, quant={})
    done = run(tmp_path, "new", "base", "quantized")
    assert done.returncode == 1 and "wanted three of one" in done.stderr
    assert not (tmp_path / "rebased").exists()
