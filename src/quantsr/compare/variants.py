"""Which networks a comparison is made of, and their training.

Every stage lives in a folder named by a digest of its settings, its photographs and the weights that it reads, so that
variants share the stages that they have in common, a comparison goes on where it stopped, and no stage is taken for
another. Where files lie is not in it: a comparison may be moved. Nor is the code: who changes a quantizer compares in a
new folder.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantsr import images, recipe, train
from quantsr.config import ConfigError, TrainConfig
from quantsr.files import listing, write_atomically

DIVERGED = "diverged.txt"  # in the folder of a stage that cannot be trained: why


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


def digest(config: TrainConfig, stages: Collection[str] = ()) -> str:
    """Twelve hexadecimal digits of all settings of a stage but its folders, of the names and sizes of its photographs,
    and of what its start and its teacher hold. `stages`: weights of other stages, which their folders' names stand for.
    """
    tables = config.to_dict()
    for section, key in (("run", "folder"), ("data", "photos"), ("data", "cache")):
        del tables[section][key]
    tables["run"]["init"] = _identity(config.run.init, stages)
    tables["teacher"]["weights"] = _identity(config.teacher.weights, stages)
    return short_digest([tables, listing(Path(config.data.photos), images.SUFFIXES)])


def _identity(weights: str, stages: Collection[str]) -> str:
    path = Path(weights)
    if weights in stages:
        return path.parent.name
    return hashlib.sha256(path.read_bytes()).hexdigest() if weights and path.is_file() else weights


def short_digest(value: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def trained(stages: Sequence[TrainConfig]) -> list[Path]:
    """Trains what is not trained yet; the folders of the stages. Raises what `train.run` raises.

    A stage that diverged once is not tried again.
    """
    folders = [Path(config.run.folder) for config in stages]
    for config, folder in zip(stages, folders, strict=True):
        if (folder / recipe.WEIGHTS).exists():
            continue
        if (folder / DIVERGED).exists():
            raise train.TrainingDiverged((folder / DIVERGED).read_text())
        try:
            train.run(config, resume=True)
        except train.TrainingDiverged as why:
            write_atomically(folder / DIVERGED, str(why).encode())
            raise
    return folders
