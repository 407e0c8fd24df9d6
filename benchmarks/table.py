"""Markdown table of what `quantsr evaluate --json` wrote: a row a model, with what half and quarter depth lose.

python benchmarks/table.py benchmarks/results/quality-*.json
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

SETS = ("Set5", "Set14", "B100")
Scores = dict[tuple[int, str], dict[str, dict[str, dict[str, Any]]]]  # (scale, model) -> depth -> set -> row


def main(files: list[str]) -> None:
    scores: Scores = {}
    for row in (row for file in files for row in json.loads(Path(file).read_text())["results"]):
        network = scores.setdefault((row["scale"], Path(row["model"]).stem), {})
        network.setdefault(row["depth"], {})[row["set"]] = row
    print("| model | " + " | ".join(SETS) + " | mean | half | quarter |")
    print("|---" * (len(SETS) + 4) + "|")
    for (_, model), depths in sorted(scores.items(), key=lambda item: (-item[0][0], mean_psnr(item[1]["full"]))):
        cells = [f"{depths['full'][name]['psnr']:.2f} / {depths['full'][name]['ssim']:.4f}" for name in SETS]
        full = mean_psnr(depths["full"])
        less = [f"{mean_psnr(depths[d]) - full:.2f}" if d in depths else "" for d in ("half", "quarter")]
        print(f"| {model} | " + " | ".join([*cells, f"{full:.2f}", *less]) + " |")


def mean_psnr(rows: dict[str, dict[str, Any]]) -> float:
    return mean(rows[name]["psnr"] for name in SETS)


if __name__ == "__main__":
    main(sys.argv[1:])
