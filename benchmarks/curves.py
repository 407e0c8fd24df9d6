"""Learning curves of the shipped models from their logs: python benchmarks/curves.py

Reads benchmarks/results/logs/*.jsonl, writes docs/pictures/learning-curves.png. Needs the extra `plot`.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
FAMILIES = {
    "x4, 4 bits": ["x4-float", "x4-float-2", "x4-float-3", "x4-w4a4", "x4-w4a4-dqa"],
    "x4, 2 bits": ["x4-float", "x4-float-2", "x4-w2a2", "x4-w2a2-dqa"],
    "x3, 4 bits": ["x3-float", "x3-w4a4", "x3-w4a4-dqa"],
    "x2, 4 bits": ["x2-float", "x2-w4a4", "x2-w4a4-dqa"],
}
COLOURS = {"full": "tab:blue", "half": "tab:orange", "quarter": "tab:green"}


def main() -> None:
    figure, axes = plt.subplots(1, len(FAMILIES), figsize=(16, 4), layout="constrained")
    for axis, (title, stages) in zip(axes, FAMILIES.items(), strict=True):
        start = 0
        for stage in stages:
            start = draw(axis, stage, start)
        axis.set(title=title, xlabel="step", ylabel="PSNR on held-out photographs, dB")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(ROOT / "docs/pictures/learning-curves.png", dpi=110)


def draw(axis: plt.Axes, stage: str, start: int) -> int:
    """One stage's validations, each depth a line; returns the step at which the next stage starts."""
    lines = (ROOT / f"benchmarks/results/logs/{stage}.jsonl").read_text().splitlines()
    points = {row["step"]: row["psnr"] for row in map(json.loads, lines) if "psnr" in row}
    for depth in next(iter(points.values())):
        axis.plot(
            [start + step for step in points],
            [scores[depth] for scores in points.values()],
            marker="o",
            color=COLOURS[depth],
            label=depth if stage.endswith("dqa") else None,
        )
    axis.axvline(start, color="gray", linewidth=0.7)
    axis.annotate(stage, (start, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=8, ha="left")
    return start + max(points)


if __name__ == "__main__":
    main()
