"""Checkpoints of other projects, where the network is one of ours: EDSR and SwinIR-light.

What differs is folded into the weights, exactly but for float32 rounding, or refused by name.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantsr import checkpoint
from quantsr.checkpoint import Checkpoint
from quantsr.config import ModelConfig, TrainConfig
from quantsr.foreign import edsr, swinir
from quantsr.foreign.source import NotImportable, Source, read

Converter = Callable[..., tuple[ModelConfig, dict[str, Any], dict[str, Any]]]

KINDS: dict[str, Converter] = {"edsr": edsr.convert, "swinir": swinir.convert}

__all__ = ["KINDS", "NotImportable", "convert", "load"]


def load(path: Path, kind: str, *, pickle: bool = False, **settings: float | None) -> Checkpoint:
    """A checkpoint of ours, float, from a file of others.

    kind: one of KINDS. pickle: also read a .pth, by torch's weights-only loader. settings: img_range and res_scale, for
    what a file of weights does not say. Raises NotImportable.
    """
    return convert(read(path, pickle=pickle), kind, **settings)


def convert(source: Source, kind: str, **settings: float | None) -> Checkpoint:
    """The same, of tensors in memory."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise NotImportable(f"{name}: got {value}, wanted a number above 0")
    model, tensors, facts = KINDS[kind](source, **settings)
    source.finish(kind)
    network = checkpoint.build(model)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise NotImportable(f"{source.name}: shapes of another network than {kind} ({error})") from error
    stage = {"imported": source.name, "as": kind, **facts}
    state = {"step": 0, "ranking": list(network.ranking), "history": [stage]}
    return Checkpoint(TrainConfig(model=model), state, {f"ema.{name}": t for name, t in network.state_dict().items()})
