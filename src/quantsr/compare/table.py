"""Variants and seeds to the rows of a table."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantsr import train
from quantsr.compare import facts
from quantsr.compare.variants import Variant, stages_of, trained, variants
from quantsr.config import ConfigError, TrainConfig
from quantsr.data import benchmarks
from quantsr.packing.program import PackedModel
from quantsr.quant import describe_placement
from quantsr.train.held_out import SIDE

Row = dict[str, Any]
Plans = dict[tuple[Variant, int], list[TrainConfig]]  # variant and seed -> its stages

log = logging.getLogger(__name__)


def rows(
    recipes: Sequence[str],
    axes: Sequence[str],
    overrides: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    data: Path,
    sets: Sequence[str],
) -> list[Row]:
    """A row for each variant: what it is and how it was trained, runs (seed, stage, scores, curve), diverged (seed ->
    why), and if any seed was trained to its end, code_use, and costs and latency_ms, or not_packed. See
    `commands.compare` for the arguments.

    Raises BenchmarkError, and what `train.check` and `train.run` do; a run that diverges is a row's.
    """
    chosen = variants(recipes, axes)
    plans = {
        (variant, seed): stages_of(variant, overrides, seed, folder / "stages") for seed in seeds for variant in chosen
    }
    _check_different(plans)
    _check(plans.values(), data, sets)
    homes, diverged = _trained(plans)
    found = []
    for variant in chosen:
        own = {seed: homes[variant, seed] for seed in seeds if (variant, seed) in homes}
        lost = {str(seed): diverged[variant, seed] for seed in seeds if (variant, seed) in diverged}
        row = _row(variant, plans[variant, seeds[0]], own, data, sets)
        found.append(row | {"diverged": lost, "with": list(overrides)})
    _add_costs({home: row for row in found if (home := _first_home(row, folder))})
    return found


def _check_different(plans: Plans) -> None:
    """Raises ConfigError where two variants, or two seeds of one, are the same run."""
    seen: dict[str, str] = {}
    for (variant, seed), stages in plans.items():
        name, home = f"{variant.name} with seed {seed}", stages[-1].run.folder
        if home in seen:
            raise ConfigError(
                f"got {seen[home]} and {name}, which are one and the same run; wanted settings that differ"
            )
        seen[home] = name


def _check(plans: Collection[list[TrainConfig]], data: Path, sets: Sequence[str]) -> None:
    """Raises before any hour of training what would be raised after it."""
    for stages in plans:
        train.check(stages, resume=True)
    for upscale in {stages[-1].model.upscale for stages in plans}:
        for name in sets:
            next(benchmarks.pairs(data, name, upscale))


def _trained(plans: Plans) -> tuple[dict[tuple[Variant, int], Path], dict[tuple[Variant, int], str]]:
    """The folders of the last stages of what could be trained, and why the rest could not."""
    homes: dict[tuple[Variant, int], Path] = {}
    diverged: dict[tuple[Variant, int], str] = {}
    for key, stages in plans.items():
        try:
            homes[key] = trained(stages)[-1]
        except train.TrainingDiverged as why:
            log.warning("%s with seed %d: %s", key[0].name, key[1], why)
            diverged[key] = str(why)
    return homes, diverged


def _row(
    variant: Variant, stages: Sequence[TrainConfig], homes: Mapping[int, Path], data: Path, sets: Sequence[str]
) -> Row:
    """homes: seed -> folder of the last stage."""
    model, quant = stages[-1].model, stages[-1].quant
    photos, held = train.split_photos(stages[-1])
    row = {
        "name": variant.name,
        "recipe": variant.recipe,
        "settings": list(variant.settings),
        "network": {key: getattr(model, key) for key in ("backbone", "upscale", "blocks", "channels")},
        "stages": [{"steps": s.optim.steps, "batch": s.data.batch, "patch": s.data.patch} for s in stages],
        "photos": len({photo.number for photo in photos}),  # not counted again where also shrunk
        "placement": f"{quant.placement}: {describe_placement(quant.placement)}" if quant else "none: float",
        "runs": [
            {"seed": seed, "stage": home.name, "scores": facts.scores(home, data, sets), "curve": _curve(home)}
            for seed, home in homes.items()
        ],
    }
    if homes:
        home = next(iter(homes.values()))
        row["code_use"] = facts.code_use(home, np.array(held[0].lr[:SIDE, :SIDE]))
    return row


def _first_home(row: Row, folder: Path) -> Path | None:
    return folder / "stages" / row["runs"][0]["stage"] if row["runs"] else None


def _add_costs(rows: Mapping[Path, Row]) -> None:
    """rows: by the folder of the network that stands for each."""
    packed: dict[str, PackedModel] = {}
    for home, row in rows.items():
        result = facts.pack(home)
        if isinstance(result, str):
            row["not_packed"] = result
        else:
            row["costs"] = facts.costs(result)
            packed[row["name"]] = result
    measured = facts.latencies(packed)
    for row in rows.values():
        if row["name"] in measured:
            row["latency_ms"] = measured[row["name"]]


def _curve(folder: Path) -> list[tuple[int, float]]:
    """(step, PSNR in dB at full depth) of each validation."""
    lines = train.read_log(folder)
    return sorted({line["step"]: line["psnr"]["full"] for line in lines if "psnr" in line}.items())
