"""The models that come with the package."""

import json
from pathlib import Path
from typing import Any

import safetensors

from quantsr.packing.file import NotAModelError, read
from quantsr.packing.program import PackedModel, PackedModelError

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT_SCALE = 4  # where neither a scale nor a model is given
SCORES = WEIGHTS / "scores.json"  # name -> sha256 of the file, scores: depth -> set -> psnr, ssim


class UnknownModelError(ValueError):
    """No bundled model and no file has this name."""


def bundled() -> list[str]:
    """Names of the bundled models, such as "quantsr-c-x4-w4a4", sorted."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def default_name(upscale: int) -> str:
    """The bundled model used when only a scale is given. Raises UnknownModelError if there is none."""
    name = f"quantsr-c-x{upscale}-w4a4"
    if name not in bundled():
        raise UnknownModelError(f"got scale {upscale}, but no model of that scale is bundled; have {_names()}")
    return name


def find(name_or_path: str | Path) -> Path:
    """The file of a bundled model or of a path. Raises UnknownModelError."""
    if str(name_or_path) in bundled():
        return WEIGHTS / f"{name_or_path}.safetensors"
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    raise UnknownModelError(f"got model {str(name_or_path)!r}, wanted a file or one of {_names()}")


def load_packed(name_or_path: str | Path) -> PackedModel:
    """A checked packed model; raises UnknownModelError or a PackedModelError."""
    path = find(name_or_path)
    try:
        return read(path)
    except PackedModelError as error:
        if isinstance(error, NotAModelError) and _is_checkpoint(path):
            message = f"{path}: is a training checkpoint, wanted a packed model; `quantsr pack` makes one of it"
            raise NotAModelError(message) from error
        raise type(error)(f"{path}: {error}") from error


def _is_checkpoint(path: Path) -> bool:
    """By the head of the file, without torch."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {"config", "state"} <= (file.metadata() or {}).keys()
    except (OSError, safetensors.SafetensorError):
        return False


def stored(name: str) -> dict[str, Any]:
    """What is on record of a bundled model: "sha256", and "scores" by depth and set. Raises UnknownModelError."""
    records: dict[str, dict[str, Any]] = json.loads(SCORES.read_text())
    if name not in records:
        raise UnknownModelError(f"{SCORES.name} knows nothing of {name!r}, only of {', '.join(records)}")
    return records[name]


def _names() -> str:
    return ", ".join(bundled()) or "(none bundled)"
