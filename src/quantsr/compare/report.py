"""A comparison for people: a Markdown table, and plots."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]

DECISIVE = ("Set14", "B100")  # their mean decides


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for one."""
    return stdev(values) if len(values) > 1 else 0.0


def decisive(run: Row, depth: str) -> float | None:
    """Mean PSNR in dB over the sets that decide, as far as they were scored."""
    found = [run["scores"][depth][name]["psnr"] for name in DECISIVE if name in run["scores"][depth]]
    return mean(found) if found else None


def markdown(rows: Sequence[Row]) -> str:
    """Rows by mean over the decisive sets, best first; PSNR +- spread over seeds / SSIM."""
    sets = list(dict.fromkeys(name for row in rows for run in row["runs"] for name in run["scores"]["full"]))
    heads = ["network", "seeds", "depth", *sets, "mean of " + " and ".join(DECISIVE), "parameters", "bytes", "BitOPs"]
    lines = [_line([*heads, "engine, CPU ms"]), "|" + "---|" * (len(heads) + 1)]
    lines += [_line(_cells(row, depth, sets)) for row in sorted(rows, key=_rank) for depth in row["runs"][0]["scores"]]
    placements = dict.fromkeys(f"- placement: {row['placement']}" for row in rows)
    reasons = [f"- {row['name']} is not packed: {row['not_packed']}" for row in rows if "not_packed" in row]
    return "\n".join([*lines, "", *placements, *reasons]) + "\n"


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
    """Accuracy against bytes and against latency, learning curves, use of codes. Needs matplotlib."""
    drawings: dict[str, Callable[[Any, Sequence[Row]], None]] = {
        "scores.png": _draw_scores,
        "bytes.png": lambda axis, rows: _draw_against(axis, rows, lambda row: row["costs"]["bytes"], "bytes, packed"),
        "latency.png": lambda axis, rows: _draw_against(axis, rows, lambda row: row["latency_ms"], "engine, CPU ms"),
        "curves.png": _draw_curves,
        "codes.png": _draw_codes,
    }
    return [_draw(folder / name, draw, rows) for name, draw in drawings.items()]


def _draw(path: Path, draw: Callable[[Any, Sequence[Row]], None], rows: Sequence[Row]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    draw(figure.subplots(), rows)
    figure.savefig(path, dpi=110)
    return path


def _psnr(row: Row) -> list[float]:
    return [score for run in row["runs"] if (score := decisive(run, "full")) is not None]


def _draw_scores(axis: Any, rows: Sequence[Row]) -> None:
    ordered = sorted((row for row in rows if _psnr(row)), key=lambda row: mean(_psnr(row)))
    names = [row["name"] for row in ordered]
    axis.barh(names, [mean(_psnr(row)) for row in ordered], xerr=[spread(_psnr(row)) for row in ordered], capsize=3)
    if ordered:
        found = [score for row in ordered for score in _psnr(row)]
        axis.set_xlim(min(found) - 0.1, max(found) + 0.05)
    axis.set(xlabel=f"PSNR, mean of {' and '.join(DECISIVE)}, dB; bars: spread over seeds")
    axis.grid(axis="x", alpha=0.3)


def _draw_against(axis: Any, rows: Sequence[Row], cost: Callable[[Row], float], label: str) -> None:
    for row in rows:
        if "costs" in row and _psnr(row):
            axis.errorbar(
                cost(row), mean(_psnr(row)), yerr=spread(_psnr(row)), marker="o", capsize=3, label=row["name"]
            )
    axis.set(xlabel=label, ylabel=f"PSNR, mean of {' and '.join(DECISIVE)}, dB")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)


def _draw_curves(axis: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        points = row["runs"][0]["curve"]
        axis.plot([step for step, _ in points], [psnr for _, psnr in points], marker=".", label=row["name"])
    axis.set(xlabel="step of the last stage", ylabel="PSNR on held-out photographs, dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _draw_codes(axis: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        for what, style in (("inputs", "-"), ("weights", ":")):
            entropy = row["code_use"].get(what, {}).get("entropy", [])
            if entropy:
                axis.plot(entropy, style, label=f"{row['name']}, {what}")
    axis.set(xlabel="quantized layer", ylabel="entropy of the codes, bits")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
