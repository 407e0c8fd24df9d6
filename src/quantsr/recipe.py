"""Recipes: TOML files that say how a network comes about, in one stage or several.

    extends = "practical.toml"      # optional: a file beside this one, whose tables this one changes
    [model], [quant], [data], ...   # as in `config`; shared by all stages
    [stages.float]                  # optional: what a stage has of its own, in the order in which they run
    quant = false                   # no [quant] in this stage
    [stages.float.optim]
    steps = 8000

Each stage runs in the folder `run.folder`/<stage> and starts from the stage before. "stage:<name>" in `run.init` or
`teacher.weights` is the weights of a stage. A file without stages is one run.
"""

import copy
import dataclasses
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantsr.config import ConfigError, TrainConfig, from_dict

BUNDLED = Path(__file__).parent / "recipes"
WEIGHTS = "weights.safetensors"

Tables = dict[str, Any]


def names() -> list[str]:
    """The recipes that come with the package, such as "practical-x4-w4a4"."""
    return sorted(path.stem for path in BUNDLED.glob("*-*.toml"))


def load(name_or_path: str | Path, overrides: Iterable[str] = (), seed: int | None = None) -> dict[str, TrainConfig]:
    """The stages of a recipe by name, in order; a file without stages has one, named "".

    overrides: "section.key=value", in every stage, [quant] only in those that have it, or
    "stages.NAME.section.key=value"; a value that is no TOML is a text. seed: `run.seed` of the stages that do not set
    their own. Raises ConfigError for anything that cannot be used, and for an override that would change nothing.
    """
    tables = _read(_find(name_or_path))
    if seed is not None:
        tables = _merged(tables, {"run": {"seed": seed}})
    stages = _stages(tables)
    everywhere: Tables = {}
    for text in overrides:
        keys, value = _parse(text)
        _set(_of_stage(stages, keys) if keys[0] == "stages" else everywhere, keys[-2:], value)
    if not stages:
        return _checked({"": from_dict(_overridden({"quant": False} | tables, everywhere))}, everywhere)
    built: dict[str, TrainConfig] = {}
    for stage, own in stages.items():
        config = from_dict(_overridden({"quant": False} | _merged(tables, own), everywhere))
        built[stage] = _placed(config, stage, built, starts_itself="init" in own.get("run", {}))
    return _checked(built, everywhere)


def _stages(tables: Tables) -> Tables:
    """Takes the stages out of the tables of a recipe: none where it says nothing of them."""
    stages = tables.pop("stages", None)
    if stages is None:
        return {}
    if not isinstance(stages, dict) or not stages or not all(isinstance(own, dict) for own in stages.values()):
        raise ConfigError(f"stages: got {stages!r}, wanted tables [stages.NAME]")
    return stages


def _checked(built: dict[str, TrainConfig], everywhere: Tables) -> dict[str, TrainConfig]:
    """The stages, if what was given for all of them reaches those that it means."""
    if "quant" in everywhere and not any(config.quant for config in built.values()):
        raise ConfigError(f"got settings of quant, {everywhere['quant']}, but the recipe has no [quant]")
    if "init" in everywhere.get("run", {}) and len(built) > 1:
        raise ConfigError(f"got run.init for all stages, wanted stages.NAME.run.init, NAME one of {', '.join(built)}")
    return built


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if not path.is_file() and str(name_or_path) in names():  # a folder may have the name
        return BUNDLED / f"{name_or_path}.toml"
    if not path.is_file():
        raise ConfigError(f"got recipe {str(name_or_path)!r}, wanted a TOML file or one of {', '.join(names())}")
    return path


def _read(path: Path, children: tuple[str, ...] = ()) -> Tables:
    """children: real paths of the files that this one is extended by."""
    own = os.path.realpath(path)
    if own in children:
        raise ConfigError(f"{path}: extends itself")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    base = tables.pop("extends", None)
    if base is None:
        return tables
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: got {base!r}, wanted the name of a file beside it")
    return _merged(_read(path.parent / base, (*children, own)), tables)


def _merged(base: Tables, own: Mapping[str, Any]) -> Tables:
    """`own` over `base`, table by table."""
    merged = copy.deepcopy(base)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def _overridden(tables: Tables, everywhere: Tables) -> Tables:
    if tables.get("quant") is False:
        del tables["quant"]
        everywhere = {section: values for section, values in everywhere.items() if section != "quant"}
    return _merged(tables, everywhere)


def _placed(config: TrainConfig, stage: str, earlier: dict[str, TrainConfig], *, starts_itself: bool) -> TrainConfig:
    """A stage with its own folder, its start, and "stage:..." resolved."""
    init = config.run.init
    if earlier and not starts_itself:
        init = f"stage:{list(earlier)[-1]}"
    run = dataclasses.replace(config.run, folder=str(Path(config.run.folder) / stage), init=_weights(init, earlier))
    teacher = dataclasses.replace(config.teacher, weights=_weights(config.teacher.weights, earlier))
    return dataclasses.replace(config, run=run, teacher=teacher)


def _weights(text: str, earlier: Mapping[str, TrainConfig]) -> str:
    if not text.startswith("stage:"):
        return text
    stage = text.removeprefix("stage:")
    if stage not in earlier:
        raise ConfigError(f"got {text!r}, wanted an earlier stage: {', '.join(earlier) or 'there is none'}")
    return str(Path(earlier[stage].run.folder) / WEIGHTS)


def _parse(text: str) -> tuple[list[str], Any]:
    name, found, value = text.partition("=")
    keys = name.strip().split(".")
    if not found or len(keys) != (4 if keys[0] == "stages" else 2) or not all(keys):
        raise ConfigError(f"got setting {text!r}, wanted section.key=value or stages.NAME.section.key=value")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()


def _of_stage(stages: Tables, keys: list[str]) -> Tables:
    """The tables of the stage that "stages.NAME.section.key" names."""
    if keys[1] not in stages:
        raise ConfigError(f"got a setting of stage {keys[1]!r}, wanted one of {', '.join(stages) or 'none: no stages'}")
    own: Tables = stages[keys[1]]
    return own


def _set(tables: Tables, keys: list[str], value: Any) -> None:
    section, key = keys
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"got a setting of {section}.{key}, but the recipe says {section} = {table!r} there")
    table[key] = value
