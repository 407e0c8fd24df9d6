"""docs/ablations.md and its pictures from the results of benchmarks/ablations.sh.

python benchmarks/ablations.py benchmarks/results/ablations
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from quantsr.compare import report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/ablations.md"
START, END = "<!-- measured: {} -->", "<!-- end -->"


def main(folder: Path) -> None:
    """Fills the places of the page that are marked by the name of a result."""
    text = PAGE.read_text(encoding="utf-8")
    for path in sorted(folder.glob("*.json")):
        mark = START.format(path.stem)
        if mark in text:
            before, _, rest = text.partition(mark)
            _, _, after = rest.partition(END)
            rows = json.loads(path.read_text())["rows"]
            text = f"{before}{mark}\n{table(rows)}\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")
    rivals = json.loads((folder / "rivals.json").read_text())["rows"]
    pictures = ROOT / "docs/pictures"
    for path in report.plots(rivals, pictures):
        path.rename(pictures / f"rivals-{path.name}")


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR in dB, mean over seeds and spread; the last column against the first row."""
    depths = list(rows[0]["runs"][0]["scores"])
    heads = ["setting", *(f"{depth}, mean of Set14 and B100" for depth in depths), "against the first, full"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    first = mean(scores(rows[0], "full"))
    for row in rows:
        cells = [f"{mean(scores(row, d)):.3f} ± {report.spread(scores(row, d)):.3f}" for d in depths]
        setting = " ".join(row["name"].split()[1:]) or "schedule"
        lines.append("| " + " | ".join([setting, *cells, f"{mean(scores(row, 'full')) - first:+.3f}"]) + " |")
    return "\n".join(lines)


def scores(row: dict[str, Any], depth: str) -> list[float]:
    return [score for run in row["runs"] if (score := report.decisive(run, depth)) is not None]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
