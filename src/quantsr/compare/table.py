"""Variants and seeds to the rows of a table."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantsr import train
from quantsr.compare import facts
from quantsr.compare.variants import Variant, stages_of, trained, variants
from quantsr.config import TrainConfig
from quantsr.data import benchmarks
from quantsr.packing.ops import PackedModel
from quantsr.quant import describe_placement
from quantsr.train.held_out import SIDE

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
    """A row for each variant: what it is and how it was trained, runs (seed, stage, scores, curve), code_use, and
    costs and latency_ms, or not_packed. See `commands.compare` for the arguments.

    Raises ConfigError, CheckpointError, BenchmarkError, TrainingDiverged.
    """
    chosen = variants(recipes, axes)
    plans = {
        (variant, seed): stages_of(variant, overrides, seed, folder / "stages") for seed in seeds for variant in chosen
    }
    _check(plans.values(), data, sets)
    homes = {key: trained(stages)[-1] for key, stages in plans.items()}
    found = [_row(variant, seeds, plans, homes, data, sets) | {"with": list(overrides)} for variant in chosen]
    _add_costs(found, [homes[variant, seeds[0]] for variant in chosen])
    return found


def _check(plans: Collection[list[TrainConfig]], data: Path, sets: Sequence[str]) -> None:
    """Raises before any hour of training what would be raised after it."""
    for stages in plans:
        train.check(stages)
    for upscale in {stages[-1].model.upscale for stages in plans}:
        for name in sets:
            next(benchmarks.pairs(data, name, upscale))


def _row(
    variant: Variant,
    seeds: Sequence[int],
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
    stages, home = plans[variant, seeds[0]], homes[variant, seeds[0]]
    model, quant = stages[-1].model, stages[-1].quant
    photos, held = train.split_photos(stages[-1])
    return {
        "name": variant.name,
        "recipe": variant.recipe,
        "settings": list(variant.settings),
        "network": {key: getattr(model, key) for key in ("backbone", "upscale", "blocks", "channels")},
        "stages": [{"steps": s.optim.steps, "batch": s.data.batch, "patch": s.data.patch} for s in stages],
        "photos": len({photo.number for photo in photos}),  # not counted again where also shrunk
        "placement": f"{quant.placement}: {describe_placement(quant.placement)}" if quant else "none: float",
        "runs": runs,
        "code_use": facts.code_use(home, np.array(held[0].lr[:SIDE, :SIDE])),
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
