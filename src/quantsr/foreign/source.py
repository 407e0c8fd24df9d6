"""A file of others' weights: names and tensors, and which of them were understood."""

import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from quantsr.pickles import PickleRefused, load_tensors

WRAPPERS = ("params_ema", "params", "state_dict")  # BasicSR's average first


class NotImportable(ValueError):
    """A file that is no network of ours; says what differs."""


class Source:
    """Tensors by name; taking one marks it as understood. Floats are float32, without the prefix of DataParallel."""

    def __init__(self, tensors: dict[str, Tensor], name: str = "weights") -> None:
        self.name = name
        self.tensors = {
            key.removeprefix("module."): t.float() if t.is_floating_point() else t for key, t in tensors.items()
        }
        self.left = set(self.tensors)
        for key, tensor in self.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self.error(f"{key} holds a non-finite value")

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise self.error(f"got no {name}; it has {self.some(self.tensors)}")
        self.left.discard(name)
        return self.tensors[name]

    def layer(self, name: str, weight: float = 1.0, bias: float = 1.0) -> dict[str, Tensor]:
        """{"weight": ..., "bias": ...} of a layer, each times a number."""
        return {"weight": self.take(f"{name}.weight") * weight, "bias": self.take(f"{name}.bias") * bias}

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that group 1 of a pattern takes among the names, ascending; they must be 0, 1, 2, ..."""
        found = sorted({int(match[1]) for name in self.tensors if (match := re.match(pattern, name))})
        if found != list(range(len(found))):
            raise self.error(f"got {pattern} numbered {found}, wanted 0, 1, 2, ...")
        return found

    def refuse(self, differences: dict[str, str]) -> None:
        """differences: a pattern of names -> what it means that the file has such."""
        for pattern, meaning in differences.items():
            if names := [name for name in self.tensors if re.search(pattern, name)]:
                raise self.error(f"{meaning} ({self.some(names)})")

    def finish(self, kind: str) -> None:
        """Raises NotImportable if anything was not understood."""
        if self.left:
            raise self.error(f"has what {kind} here does not: {self.some(self.left)}")

    def error(self, message: str) -> NotImportable:
        return NotImportable(f"{self.name}: {message}")

    @staticmethod
    def some(names: Any) -> str:
        names = sorted(names)
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def read(path: Path, *, pickle: bool) -> Source:
    """A file as a Source. Raises NotImportable; a pickle is opened only if asked for, and never runs."""
    try:
        if path.suffix == ".safetensors" or not pickle:
            return Source(safetensors.torch.load_file(path), path.name)
        return Source(_state_dict(load_tensors(path), path.name), path.name)
    except PickleRefused as error:
        raise NotImportable(str(error)) from error
    except OSError as error:
        raise NotImportable(f"{path}: cannot be read ({error.strerror or error})") from error
    except safetensors.SafetensorError as error:
        hint = "" if pickle else "; a .pth is a pickle, which --pickle reads by torch's weights-only loader"
        raise NotImportable(f"{path}: not a safetensors file ({error}){hint}") from error


def _state_dict(found: Any, name: str) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise NotImportable(f"{name}: got {type(found).__name__}, wanted tensors by name, as in a state_dict")
    return {str(key): value for key, value in found.items()}
