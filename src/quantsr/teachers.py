"""Frozen networks that others learn from."""

from pathlib import Path

import torch
from torch import nn

from quantsr import checkpoint
from quantsr.config import TrainConfig
from quantsr.models.rlfn import RLFN
from quantsr.pickles import PickleRefused, load_tensors


def load_teacher(config: TrainConfig, device: torch.device) -> nn.Module:
    """The run's teacher in eval mode, without gradients.

    Raises CheckpointError if its file does not fit its kind, or if it enlarges by another factor than the student.
    """
    path = Path(config.teacher.weights)
    network = _rlfn(path) if config.teacher.kind == "rlfn" else checkpoint.load_network(path)[0]
    if network.upscale != config.model.upscale:
        raise checkpoint.CheckpointError(f"{path}: got a teacher of x{network.upscale}, wanted x{config.model.upscale}")
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _rlfn(path: Path) -> RLFN:
    try:
        weights = load_tensors(path)
        network = RLFN()
        network.load_state_dict(weights)
    except (PickleRefused, RuntimeError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not RLFN x4 weights ({error})") from error
    return network
