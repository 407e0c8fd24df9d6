"""Which networks a comparison is made of, and their training.

Every stage lives in a folder named by a digest of its settings, its photographs and the weights that it reads, so that
variants share the stages that they have in common, a comparison goes on where it stopped, and no stage is taken for
another. The code is not in it: who changes a quantizer compares in a new folder.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantsr import images, recipe, train
from quantsr.config import ConfigError, TrainConfig
from quantsr.files import listing


@dataclass(frozen=True)
class Variant:
    """A row of the table before seeds: recipe, and the settings that it varies, as "section.key=value"."""

    recipe: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as "small-x4-w2a2 lsq": the values alone, as the keys are the same in every row."""
        return " ".join([Path(self.recipe).stem, *(text.partition("=")[2] for text in self.settings)])


def variants(recipes: Iterable[str], axes: Iterable[str]) -> list[Variant]:
    """All combinations. axes: "section.key=value,value,...". Raises ConfigError for anything else, and equal names."""
    choices = [_choices(axis) for axis in axes]
    found = [Variant(name, settings) for name in recipes for settings in itertools.product(*choices)]
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"got several variants named {', '.join(twice)}, wanted a name for each: rename a recipe's file"
        )
    return found


def _choices(axis: str) -> list[str]:
    key, found, values = axis.partition("=")
    if not found or not values:
        raise ConfigError(f"got {axis!r}, wanted section.key=value,value,...")
    return [f"{key}={value}" for value in values.split(",")]


def stages_of(variant: Variant, overrides: Sequence[str], seed: int, folder: Path) -> list[TrainConfig]:
    """The variant's stages with their folders under `folder`. A seed that a stage sets itself stays."""
    stages = recipe.load(variant.recipe, [*overrides, *variant.settings], seed=seed)
    placed: list[TrainConfig] = []
    moved: dict[str, str] = {}  # weights of earlier stages: where the recipe puts them -> where they are
    for config in stages.values():
        config = _moved(config, moved)
        home = folder / digest(config, moved.values())
        moved[str(Path(config.run.folder) / recipe.WEIGHTS)] = str(home / recipe.WEIGHTS)
        placed.append(dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(home))))
    return placed


def _moved(config: TrainConfig, moved: dict[str, str]) -> TrainConfig:
    run = dataclasses.replace(config.run, init=moved.get(config.run.init, config.run.init))
    weights = moved.get(config.teacher.weights, config.teacher.weights)
    return dataclasses.replace(config, run=run, teacher=dataclasses.replace(config.teacher, weights=weights))


def digest(config: TrainConfig, stages: Container[str] = ()) -> str:
    """Twelve hexadecimal digits of all settings of a stage but its folder, of the names and sizes of its photographs,
    and of the bytes of start and teacher; those in `stages`, weights of other stages, are in their own digests.
    """
    tables = config.to_dict()
    del tables["run"]["folder"]
    read = (Path(path) for path in (config.run.init, config.teacher.weights) if path and path not in stages)
    weights = [hashlib.sha256(path.read_bytes()).hexdigest() for path in read if path.is_file()]
    return short_digest([tables, listing(Path(config.data.photos), images.SUFFIXES), weights])


def short_digest(value: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def trained(stages: Sequence[TrainConfig]) -> list[Path]:
    """Trains what is not trained yet; the folders of the stages. Raises what `train.run` raises."""
    folders = [Path(config.run.folder) for config in stages]
    for config, folder in zip(stages, folders, strict=True):
        if not (folder / recipe.WEIGHTS).exists():
            train.run(config, resume=True)
    return folders
