"""A comparison for people: a Markdown table, and plots."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

Row = dict[str, Any]

DECISIVE = ("Set14", "B100")  # their mean decides
CODE_USE = {"entropy": "entropy, bits", "unused": "share of levels unused"}  # see `facts.code_use`


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for one."""
    return stdev(values) if len(values) > 1 else 0.0


def decisive(run: Row, depth: str) -> float | None:
    """Mean PSNR in dB over the sets that decide; None unless all of them were scored."""
    scores = run["scores"][depth]
    return mean(scores[name]["psnr"] for name in DECISIVE) if scores.keys() >= set(DECISIVE) else None


def markdown(rows: Sequence[Row]) -> str:
    """Rows by mean over the decisive sets, best first; PSNR +- spread over seeds / SSIM. Below, how they came about."""
    trained = [row for row in rows if row["runs"]]
    sets = list(dict.fromkeys(name for row in trained for run in row["runs"] for name in run["scores"]["full"]))
    heads = ["network", "seeds", "depth", *sets, "mean of " + " and ".join(DECISIVE), "parameters", "bytes", "BitOPs"]
    lines = [_line([*heads, "engine, CPU ms"]), "|" + "---|" * (len(heads) + 1)]
    lines += [
        _line(_cells(row, depth, sets)) for row in sorted(trained, key=_rank) for depth in row["runs"][0]["scores"]
    ]
    reasons = [f"- {row['name']} is not packed: {row['not_packed']}" for row in rows if "not_packed" in row]
    for row in rows:
        lost = row.get("diverged", {})
        reasons += [f"- {row['name']} with seed {seed} diverged: {why}" for seed, why in lost.items()]
    return "\n".join([*lines, "", *_notes(rows), *reasons]) + "\n"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Network, training, settings and placement; with the names of the rows that each holds for, if not for all."""
    said: dict[str, list[str]] = {}
    for describe in (_network, _training, _given, _placement):
        for row in rows:
            said.setdefault(describe(row), []).append(row["name"])
    return [f"- {text}" + ("" if len(names) == len(rows) else f" ({', '.join(names)})") for text, names in said.items()]


def _network(row: Row) -> str:
    return "network: {backbone} x{upscale}, {blocks} blocks of {channels} channels".format(**row["network"])


def _training(row: Row) -> str:
    stages = ["{steps:,} steps of {batch} patches of {patch} x {patch}".format(**stage) for stage in row["stages"]]
    return f"training: {', then '.join(stages)} LR pixels; {row['photos']:,} photographs"


def _given(row: Row) -> str:
    return f"given by --with: {', '.join(f'`{text}`' for text in row['with']) or 'none'}"


def _placement(row: Row) -> str:
    return f"placement {row['placement']}"


def _rank(row: Row) -> float:
    scored = [decisive(run, "full") for run in row["runs"]]
    return -mean(score or 0.0 for score in scored)


def _cells(row: Row, depth: str, sets: Sequence[str]) -> list[str]:
    runs, costs = row["runs"], row.get("costs", {}) if depth == "full" else {}
    cells = [row["name"], str(len(runs)), depth]
    for name in sets:
        psnr = [run["scores"][depth][name]["psnr"] for run in runs]
        ssim = mean(run["scores"][depth][name]["ssim"] for run in runs)
        cells.append(f"{_with_spread(psnr)} / {ssim:.4f}")
    scored = [score for run in runs if (score := decisive(run, depth)) is not None]
    cells.append(_with_spread(scored) if scored else "-")
    cells += [f"{costs[key]:,}" if key in costs else "-" for key in ("parameters", "bytes")]
    cells.append(f"{costs['bitops'] / 1e9:.0f} G" if costs else "-")
    return [*cells, f"{row['latency_ms']:.1f}" if "latency_ms" in row and depth == "full" else "-"]


def _with_spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {spread(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Accuracy, alone and against bytes and latency, learning curves, use of codes. Needs matplotlib.

    Draws nothing where nothing was trained to its end.
    """
    rows = [row for row in rows if row["runs"]]
    if not rows:
        return []
    drawings: dict[str, Callable[[Any, Sequence[Row]], None]] = {
        "scores.png": _draw_scores,
        "bytes.png": partial(_draw_against, label="bytes, packed", cost=lambda row: row["costs"]["bytes"]),
        "latency.png": partial(_draw_against, label="engine, CPU ms", cost=lambda row: row["latency_ms"]),
        "curves.png": _draw_curves,
        "codes.png": _draw_codes,
    }
    return [_draw(folder / name, draw, rows) for name, draw in drawings.items()]


def _draw(path: Path, draw: Callable[[Any, Sequence[Row]], None], rows: Sequence[Row]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    draw(figure, rows)
    figure.savefig(path, dpi=110)
    return path


def _psnr(row: Row) -> list[float]:
    return [score for run in row["runs"] if (score := decisive(run, "full")) is not None]


def _draw_scores(figure: Any, rows: Sequence[Row]) -> None:
    axis = figure.subplots()
    ordered = sorted((row for row in rows if _psnr(row)), key=lambda row: mean(_psnr(row)))
    names = [row["name"] for row in ordered]
    means, spreads = [mean(_psnr(row)) for row in ordered], [spread(_psnr(row)) for row in ordered]
    axis.errorbar(means, names, xerr=spreads, fmt="o", capsize=3)
    axis.set(xlabel=f"PSNR, mean of {' and '.join(DECISIVE)}, dB; bars: spread over seeds")
    axis.grid(axis="x", alpha=0.3)


def _draw_against(figure: Any, rows: Sequence[Row], label: str, cost: Callable[[Row], float]) -> None:
    axis = figure.subplots()
    for place, row in enumerate(rows):
        if "costs" in row and _psnr(row):
            look = {"color": f"C{place}", "marker": "osD^vPX"[place % 7], "fillstyle": "none", "capsize": 3}
            axis.errorbar(cost(row), mean(_psnr(row)), yerr=spread(_psnr(row)), label=row["name"], **look)
    axis.set(xlabel=label, ylabel=f"PSNR, mean of {' and '.join(DECISIVE)}, dB")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.set_xlim(0, 1.1 * axis.get_xlim()[1])  # from 0: a few bytes more are not another size
        axis.legend(fontsize=8)


def _draw_curves(figure: Any, rows: Sequence[Row]) -> None:
    axis = figure.subplots()
    for row in rows:
        points = row["runs"][0]["curve"]
        axis.plot([step for step, _ in points], [psnr for _, psnr in points], marker=".", label=row["name"])
    axis.set(xlabel="step of the last stage", ylabel="PSNR on held-out photographs, dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _draw_codes(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for line, (measure, label) in zip(axes, CODE_USE.items(), strict=True):
        tables = {what: _by_layer(rows, what, measure) for what in ("inputs", "weights")}
        top = max(np.nanmax(table, initial=1.0) for table in tables.values())
        for axis, (what, table) in zip(line, tables.items(), strict=True):
            drawn = axis.imshow(table, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
            axis.set(title=f"{what}: {label}", yticks=range(len(rows)), yticklabels=[row["name"] for row in rows])
        figure.colorbar(drawn, ax=line)
    for axis in axes[1]:
        axis.set(xlabel="quantized layer; blank: no codes")


def _by_layer(rows: Sequence[Row], what: str, measure: str) -> np.ndarray:
    """A line for each row, a column for each layer; not a number where there are no codes."""
    lists = [row["code_use"].get(what, {}).get(measure, []) for row in rows]
    layers = max(1, *map(len, lists))
    return np.array([[*values, *[None] * (layers - len(values))] for values in lists], np.float64)
