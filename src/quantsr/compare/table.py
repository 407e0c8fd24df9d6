"""Variants and seeds to the rows of a table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantsr import train
from quantsr.compare import facts
from quantsr.compare.variants import Variant, stages_of, trained, variants
from quantsr.config import TrainConfig
from quantsr.packing.ops import PackedModel
from quantsr.quant import describe_placement

Row = dict[str, Any]


def rows(
    recipes: Sequence[str],
    axes: Sequence[str],
    overrides: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    data: Path,
    sets: Sequence[str],
) -> list[Row]:
    """A row for each variant: name, settings, placement, runs (seed, digest, scores, curve), code_use, and costs,
    latency_ms or not_packed. See `commands.compare` for the arguments.

    Raises ConfigError, CheckpointError, BenchmarkError, TrainingDiverged.
    """
    chosen = variants(recipes, axes)
    plans = {
        (variant, seed): stages_of(variant, overrides, seed, folder / "stages") for seed in seeds for variant in chosen
    }
    homes = {key: trained(stages)[-1] for key, stages in plans.items()}
    found = [_row(variant, seeds, plans, homes, data, sets) for variant in chosen]
    _add_costs(found, [homes[variant, seeds[0]] for variant in chosen])
    return found


def _row(
    variant: Variant,
    seeds: Iterable[int],
    plans: dict[tuple[Variant, int], list[TrainConfig]],
    homes: dict[tuple[Variant, int], Path],
    data: Path,
    sets: Sequence[str],
) -> Row:
    runs = []
    for seed in seeds:
        home = homes[variant, seed]
        run = {"seed": seed, "stage": home.name, "scores": facts.scores(home, data, sets), "curve": _curve(home)}
        runs.append(run)
    last = plans[variant, next(iter(seeds))][-1]
    placement = describe_placement(last.quant.placement) if last.quant else "none, float"
    home = homes[variant, next(iter(seeds))]
    return {
        "name": variant.name,
        "recipe": variant.recipe,
        "settings": list(variant.settings),
        "steps": [stage.optim.steps for stage in plans[variant, next(iter(seeds))]],
        "placement": placement,
        "runs": runs,
        "code_use": facts.code_use(home, _photo(last)),
    }


def _add_costs(rows: Sequence[Row], homes: Sequence[Path]) -> None:
    packed: dict[str, PackedModel] = {}
    for row, home in zip(rows, homes, strict=True):
        result = facts.pack(home)
        if isinstance(result, str):
            row["not_packed"] = result
        else:
            row["costs"] = facts.costs(result)
            packed[row["name"]] = result
    measured = facts.latencies(packed)
    for row in rows:
        if row["name"] in measured:
            row["latency_ms"] = measured[row["name"]]


def _curve(folder: Path) -> list[tuple[int, float]]:
    """(step, PSNR in dB at full depth) of each validation."""
    lines = train.read_log(folder)
    return sorted({line["step"]: line["psnr"]["full"] for line in lines if "psnr" in line}.items())


def _photo(config: TrainConfig) -> np.ndarray:
    """The first held-out photograph, low resolution."""
    held = train.split_photos(config)[1][0]
    return np.array(held.lr[: train.VALIDATION_SIDE, : train.VALIDATION_SIDE])
