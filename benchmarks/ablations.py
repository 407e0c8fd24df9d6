"""docs/ablations.md and its pictures from the results of benchmarks/ablations.sh. Needs the extra `plot`.

python benchmarks/ablations.py benchmarks/results/ablations
"""

import json
import re
import sys
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from quantsr.compare import report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/ablations.md"
PICTURES = ROOT / "docs/pictures"
START, WHOLE, END = "<!-- measured: {} -->", "<!-- in full: {} -->", "<!-- end -->"

Rows = list[dict[str, Any]]

COLUMNS = 3
SPAN = 0.12  # dB: the least width of a panel, so that nothing small looks large


def main(folder: Path) -> None:
    results = read(folder)
    text = PAGE.read_text(encoding="utf-8")
    wanted = re.findall(START.format(r"(\S+)"), text) + re.findall(WHOLE.format(r"(\S+)"), text)
    if missing := sorted(set(wanted) - results.keys()):
        sys.exit(f"{folder}: got no {', '.join(missing)}, wanted a .json for each table of {PAGE}; nothing is changed")
    PAGE.write_text(filled(text, results), encoding="utf-8")
    several = {name: results[name] for name in wanted if len(results[name]["rows"]) > 1 and START.format(name) in text}
    draw(several).savefig(PICTURES / "ablations.png", dpi=100)
    for path in report.plots(results["rivals-rate"]["rows"], PICTURES):
        path.rename(PICTURES / f"rivals-rate-{path.name}")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def filled(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with the tables of the results at the places that are marked by their names."""
    for name, result in results.items():
        for mark, write in ((START.format(name), table), (WHOLE.format(name), report.markdown)):
            if mark in text:
                before, _, rest = text.partition(mark)
                _, _, after = rest.partition(END)
                text = f"{before}{mark}\n{write(result['rows']).rstrip()}\n{END}{after}"
    return text


def table(rows: Rows) -> str:
    """PSNR in dB, mean over seeds and spread; in brackets the differences from the first row, seed by seed."""
    measures = [(f"{depth}: Set14, B100", partial(scores, depth=depth)) for depth in rows[0]["runs"][0]["scores"]]
    measures.append(("full: held-out photographs", held_out))
    lines = ["| " + " | ".join(["setting", *(head for head, _ in measures)]) + " |", "|" + "---|" * (len(measures) + 1)]
    for row in rows:
        cells = [spread(measure(row)) + against(measure(row), measure(rows[0])) for _, measure in measures]
        lines.append("| " + " | ".join([setting(row), *cells]) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ± {report.spread(values):.3f}"


def against(values: list[float], first: list[float]) -> str:
    """Of the same seeds, which share their batches; nothing for the first itself."""
    differences = [value - other for value, other in zip(values, first, strict=True)]
    return f" ({mean(differences):+.3f} ± {report.spread(differences):.3f})" if any(differences) else ""


def setting(row: dict[str, Any]) -> str:
    return " ".join(row["name"].split()[1:]) or "schedule"


def scores(row: dict[str, Any], depth: str) -> list[float]:
    return [score for run in row["runs"] if (score := report.decisive(run, depth)) is not None]


def held_out(row: dict[str, Any]) -> list[float]:
    """At the last step."""
    return [run["curve"][-1][1] for run in row["runs"]]


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """A panel for each result: mean and spread over seeds of every setting, at full depth; a line at the first one."""
    lines = -(-len(results) // COLUMNS)
    figure = Figure(figsize=(11, 1.6 * lines), layout="constrained")
    axes = list(figure.subplots(lines, COLUMNS).flat)
    for axis, (name, result) in zip(axes, results.items(), strict=False):
        rows = result["rows"]
        means = [mean(scores(row, "full")) for row in rows]
        spreads = [report.spread(scores(row, "full")) for row in rows]
        axis.axvline(means[0], color="0.75", linewidth=1)
        axis.errorbar(means, range(len(rows)), xerr=spreads, fmt="o", markersize=4, capsize=3)
        left, right = axis.get_xlim()
        missing = max(0, SPAN - (right - left)) / 2
        axis.set(xlim=(left - missing, right + missing), ylim=(len(rows) - 0.5, -0.5))
        axis.set_title(name, fontsize=10)
        axis.set_yticks(range(len(rows)), [setting(row) for row in rows], fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[len(results) :]:
        axis.axis("off")
    figure.supxlabel("PSNR at full depth, mean of Set14 and B100, dB; bars: spread over three seeds", fontsize=9)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
