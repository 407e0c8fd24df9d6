"""How the weights came about, run by run, from recipes and logs: python benchmarks/history.py

Reads recipes/, benchmarks/results/logs/ and checkpoints/, writes docs/history.md.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from quantsr import checkpoint, recipe
from quantsr.config import DataConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/history.md"
FAMILIES = {
    "x4": "QuantSR-C x4",
    "x3": "QuantSR-C x3",
    "x2": "QuantSR-C x2",
    "t-x4": "QuantSR-T x4",
    "t-x2": "QuantSR-T x2",
}
INTRODUCTION = """\
# How the weights came about

Every run behind the weights of the package, from [recipes](../recipes) and [logs](../benchmarks/results/logs). This \
page is written by `python benchmarks/history.py`; what the runs taught is told in \
[training](training.md#what-the-runs-taught).

A recipe names the run that it starts from in `run.init`, and RLFN's checkpoint as `teachers/team04_rlfn.pth` \
([teacher](training.md#teacher)). Runs in **bold** are those whose weights are in [checkpoints](../checkpoints), to be \
copied to where a recipe looks for them; the others are not kept. All ran on two shared CPU cores, mostly one thread \
each, beside other work; CPUs differed, so hours say little. *Photographs* are the sizes at which they train, those \
that are LR without HR, and augmentations beyond turns; *teacher* is who has which share of the loss. Scores are \
PSNR-Y in dB on the ten held-out photographs at full, half and quarter depth, of the averaged weights at the end of a \
run.
"""


@dataclass(frozen=True)
class Run:
    """One recipe without stages, and its log."""

    name: str

    @cached_property
    def config(self) -> TrainConfig:
        (config,) = recipe.load(ROOT / f"recipes/{self.name}.toml").values()
        return config

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        path = ROOT / f"benchmarks/results/logs/{self.name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    @property
    def steps(self) -> int:
        return max(row["step"] for row in self.rows)

    @property
    def seconds(self) -> float:
        """Of all parts of a run that was resumed: each begins with its settings, at 0 seconds."""
        ends = [before for before, row in pairwise(self.rows) if "config" in row]
        return sum(row["seconds"] for row in [*ends, self.rows[-1]])

    @property
    def validations(self) -> dict[int, dict[str, float]]:
        return {row["step"]: row["psnr"] for row in self.rows if "psnr" in row}

    @property
    def start(self) -> str:
        """The run that it starts from, or ""."""
        return _run_of(self.config.run.init)

    @property
    def bits(self) -> int:
        """Of weights; 32 for a float network."""
        return self.config.quant.weight_bits if self.config.quant else 32


def chain(name: str) -> list[Run]:
    """A run and all that it comes from, the first of them first."""
    runs = []
    while name:
        runs.insert(0, Run(name))
        name = runs[0].start
    return runs


def shipped() -> dict[str, str]:
    """Names of the files in checkpoints/, without suffix, and the runs that they come from."""
    files = sorted((ROOT / "checkpoints").glob("*.safetensors"))
    return {file.stem: Path(checkpoint.load(file).config.run.folder).name for file in files}


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    kept = shipped()
    names = sorted((file.stem for file in (ROOT / "recipes").glob("*.toml")), key=_natural)
    parts = [INTRODUCTION, _summary(kept), "## Runs\n"]
    for family, title in FAMILIES.items():
        runs = sorted((Run(name) for name in names if name.startswith(f"{family}-")), key=lambda run: -run.bits)
        parts += [f"### {title}\n", _table(runs, set(kept.values()))]
    return "\n".join(parts)


def _summary(kept: dict[str, str]) -> str:
    lines = ["| File in checkpoints/ | Run | Runs behind it | Steps | Hours |", "|---|---|---|---|---|"]
    for file, name in kept.items():
        runs = chain(name)
        steps, hours = sum(run.steps for run in runs), sum(run.seconds for run in runs) / 3600
        lines.append(f"| {file} | {_link(name)} | {len(runs)} | {steps:,} | {hours:.1f} |")
    everything = sum(Run(file.stem).seconds for file in (ROOT / "recipes").glob("*.toml")) / 3600
    return "\n".join(lines) + f"\n\nAll runs together, each once: {everything:.0f} hours.\n"


def _table(runs: Iterable[Run], kept: set[str]) -> str:
    lines = ["| Run | Starts from | Photographs | Teacher | Steps | Rate | dB |", "|---|---|---|---|---|---|---|"]
    for run in runs:
        name = f"**{_link(run.name)}**" if run.name in kept else _link(run.name)
        optim, start = run.config.optim, run.start
        cells = (
            name,
            start or "nothing",
            _photographs(run.config.data),
            ", ".join(_teachers(run.config)) or "none",
            f"{run.steps:,}",
            f"{optim.method.title()} {optim.learning_rate:.1e}".replace("e-0", "e-"),
            _scores(run),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _scores(run: Run) -> str:
    """Of the last validation, which a run that was cut short may not have had at its end."""
    step, scores = max(run.validations.items())
    return " / ".join(f"{value:.3f}" for value in scores.values()) + (f" (step {step:,})" if step < run.steps else "")


def _photographs(data: DataConfig) -> str:
    parts = [_sizes([1, *data.shrunk])]
    parts += [f"LR alone {_sizes(data.unpaired)}"] if data.unpaired else []
    return "; ".join([*parts, *(name for name in data.augment if name != "turns")])


def _sizes(sizes: Iterable[float]) -> str:
    return ", ".join(f"{size:g}" for size in sizes)


def _teachers(config: TrainConfig) -> Iterator[str]:
    teacher = config.teacher
    if teacher.weights:
        name = "RLFN" if teacher.kind == "rlfn" else _run_of(teacher.weights)
        yield f"{name} {teacher.weight:g}" + (f" ({teacher.views} views)" if teacher.views > 1 else "")
    if teacher.sandwich:
        yield f"full depth {teacher.sandwich:g}"


def _run_of(weights: str) -> str:
    return Path(weights).parent.name if weights else ""


def _link(name: str) -> str:
    return f"[{name}](../recipes/{name}.toml)"


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


if __name__ == "__main__":
    main()
