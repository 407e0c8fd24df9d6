"""Checkpoints: one safetensors file each, written atomically; never pickle.

Tensor names: `model.*` the trained weights, `ema.*` their average, `optim.<field>.<parameter>` the optimiser's state.
Metadata: `config` and `state` as JSON, and `sha256` of both and all tensors, which older files lack. A file of weights
alone (what a run exports) has only `ema.*`.
"""

import dataclasses
import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from quantsr import config as configs
from quantsr.config import ModelConfig, TrainConfig
from quantsr.files import write_atomically
from quantsr.models import MODELS
from quantsr.quant import quantize


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit."""


@dataclass
class Checkpoint:
    """tensors by prefixed name; state: step, ranking and what else the loop must remember."""

    config: TrainConfig
    state: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        return {n[len(prefix) + 1 :]: t for n, t in self.tensors.items() if n.startswith(prefix + ".")}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint. Raises CheckpointError rather than store a non-finite value."""
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} holds a non-finite value; not saved")
    metadata = {"config": json.dumps(checkpoint.config.to_dict()), "state": json.dumps(checkpoint.state)}
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    metadata["sha256"] = _digest(metadata, tensors)
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises CheckpointError if it is missing, torn or not one of ours."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if missing := {"config", "state"} - metadata.keys():
                raise ValueError(_no_checkpoint(metadata, missing))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config, state = configs.from_dict(json.loads(metadata["config"])), json.loads(metadata["state"])
        if "sha256" in metadata and metadata["sha256"] != _digest(metadata, tensors):
            raise ValueError("got other bytes than were saved, by its checksum")
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
    return Checkpoint(config, state, tensors)


def _no_checkpoint(metadata: dict[str, str], missing: set[str]) -> str:
    if metadata.get("format") == "quantsr":
        return "it is packed already"
    return f"got a file of tensors without {' and '.join(sorted(missing))}; `quantsr import` takes networks of others"


def _digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256(json.dumps([metadata["config"], metadata["state"]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def saved_steps(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [p for p in folder.glob("checkpoint-*.safetensors") if re.fullmatch(r"checkpoint-\d+", p.stem)]
    return sorted(found, key=lambda p: int(p.stem.rpartition("-")[2]), reverse=True)


def build(config: ModelConfig) -> nn.Module:
    """A fresh float network. Raises ConfigError for an unknown backbone, or a setting that it does not have."""
    if config.backbone not in MODELS:
        raise configs.ConfigError(f"model.backbone: got {config.backbone!r}, wanted one of {', '.join(MODELS)}")
    backbone = MODELS[config.backbone]
    known, settings = inspect.signature(backbone).parameters, {}
    for field in dataclasses.fields(config)[1:]:
        value = getattr(config, field.name)
        if field.name in known:
            settings[field.name] = value
        elif value != field.default:
            raise configs.ConfigError(
                f"model.{field.name}: got {value!r}, wanted {field.default!r}, the default: backbone "
                f"{config.backbone!r} has no such setting"
            )
    return backbone(**settings)


def load_network(path: Path) -> tuple[nn.Module, Checkpoint]:
    """The averaged network of a checkpoint, in eval mode, quantized if the run was, and the checkpoint itself."""
    checkpoint = load(path)
    return network_of(checkpoint, path), checkpoint


def network_of(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The same of a checkpoint in memory; `path` is for the error alone."""
    network = build(checkpoint.config.model)
    if checkpoint.config.quant is not None:
        quantize(network, checkpoint.config.quant)
    try:
        network.load_state_dict(checkpoint.part("ema"))
        network.set_ranking(checkpoint.state["ranking"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit its configuration ({error})") from error
    return network.eval()
