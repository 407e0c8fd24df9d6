"""Markdown table of what `quantsr evaluate --json` wrote.

python benchmarks/table.py benchmarks/results/quality-*.json
"""

import json
import sys
from pathlib import Path

SETS = ("Set5", "Set14", "B100")


def main(files: list[str]) -> None:
    rows = [row for file in files for row in json.loads(Path(file).read_text())["results"]]
    scores = {(row["scale"], row["model"], row["depth"], row["set"]): row for row in rows}
    print("| scale | model | depth | " + " | ".join(SETS) + " | mean |")
    print("|---|---|---|" + "---|" * (len(SETS) + 1))
    for scale, model, depth in dict.fromkeys(key[:3] for key in scores):
        found = [scores[scale, model, depth, name] for name in SETS]
        cells = [f"{row['psnr']:.2f} / {row['ssim']:.4f}" for row in found]
        mean = sum(row["psnr"] for row in found) / len(found)
        print(f"| x{scale} | {Path(model).stem} | {depth} | " + " | ".join(cells) + f" | {mean:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
