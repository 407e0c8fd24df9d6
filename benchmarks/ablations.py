"""docs/ablations.md and its pictures from the results of benchmarks/ablations.sh. Needs the extra `plot`.

python benchmarks/ablations.py benchmarks/results/ablations
"""

import json
import re
import sys
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
    text = filled(PAGE.read_text(encoding="utf-8"), results)
    PAGE.write_text(text, encoding="utf-8")
    shown = {name: results[name] for name in re.findall(START.format(r"(\S+)"), text) if name in results}
    several = {name: result for name, result in shown.items() if len(result["rows"]) > 1}
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
    """PSNR in dB, mean over seeds and spread; the last column against the first row."""
    depths = list(rows[0]["runs"][0]["scores"])
    heads = ["setting", *(f"{depth}, mean of Set14 and B100" for depth in depths), "against the first, full"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    first = mean(scores(rows[0], "full"))
    for row in rows:
        cells = [f"{mean(scores(row, d)):.3f} ± {report.spread(scores(row, d)):.3f}" for d in depths]
        lines.append("| " + " | ".join([setting(row), *cells, f"{mean(scores(row, 'full')) - first:+.3f}"]) + " |")
    return "\n".join(lines)


def setting(row: dict[str, Any]) -> str:
    return " ".join(row["name"].split()[1:]) or "schedule"


def scores(row: dict[str, Any], depth: str) -> list[float]:
    return [score for run in row["runs"] if (score := report.decisive(run, depth)) is not None]


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
