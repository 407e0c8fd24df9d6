"""Learning curves of the shipped models from their logs: python benchmarks/curves.py

Reads benchmarks/results/logs/*.jsonl, writes docs/pictures/learning-curves.png. Needs the extra `plot`.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
T_FLOAT = ["t-x4-float", "t-x4-float-2", "t-x4-float-3", "t-x4-float-4"]
FAMILIES = {
    "x4, 4 bits": [
        "x4-float",
        "x4-float-2",
        "x4-float-3",
        "x4-w4a4",
        "x4-w4a4-dqa",
        "x4-w4a4-dqa-3",
        "x4-w4a4-dqa-4",
        "x4-w4a4-dqa-6",
        "x4-w4a4-dqa-7",
        "x4-w4a4-dqa-8",
        "x4-w4a4-dqa-9",
        "x4-w4a4-dqa-10",
        "x4-w4a4-dqa-11",
        "x4-w4a4-dqa-12",
    ],
    "x4, 2 bits": [
        "x4-float",
        "x4-float-2",
        "x4-float-3",
        "x4-w4a4",
        "x4-w4a4-dqa",
        "x4-w4a4-dqa-3",
        "x4-w4a4-dqa-4",
        "x4-w4a4-dqa-6",
        "x4-w4a4-dqa-7",
        "x4-w2a2-dqa-4",
        "x4-w2a2-dqa-5",
        "x4-w2a2-dqa-6",
    ],
    "x3, 4 bits": ["x3-float", "x3-w4a4", "x3-w4a4-dqa", "x3-w4a4-dqa-2", "x3-w4a4-dqa-3", "x3-w4a4-dqa-4"],
    "x2, 4 bits": [
        "x2-float",
        "x2-w4a4",
        "x2-w4a4-dqa",
        "x2-w4a4-dqa-2",
        "x2-w4a4-dqa-4",
        "x2-w4a4-dqa-6",
        "x2-w4a4-dqa-7",
    ],
    "QuantSR-T x4, 4 bits": [*T_FLOAT, "t-x4-w4a4-dqa", "t-x4-w4a4-dqa-2", "t-x4-w4a4-dqa-3"],
    "QuantSR-T x4, 2 bits": [*T_FLOAT, "t-x4-w2a2-dqa", "t-x4-w2a2-dqa-2"],
    "QuantSR-T x2, 4 bits": ["t-x2-float", "t-x2-w4a4-dqa", "t-x2-w4a4-dqa-2"],
}
COLOURS = {"full": "tab:blue", "half": "tab:orange", "quarter": "tab:green"}


def main() -> None:
    figure, axes = plt.subplots(1, len(FAMILIES), figsize=(23, 4), layout="constrained")
    for axis, (title, stages) in zip(axes, FAMILIES.items(), strict=True):
        start = 0
        for place, stage in enumerate(stages):
            start = draw(axis, stage, start, height=0.02 + 0.14 * (place % 3))
        axis.set(title=title, xlabel="step", ylabel="PSNR on held-out photographs, dB")
        axis.grid(alpha=0.3)
    axes[-1].legend(loc="center left")
    figure.savefig(ROOT / "docs/pictures/learning-curves.png", dpi=110)


def draw(axis: plt.Axes, stage: str, start: int, height: float) -> int:
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
    label = stage.partition("x")[2][2:]  # without t- and the scale, which the title tells
    axis.annotate(label, (start, height), xycoords=("data", "axes fraction"), rotation=90, fontsize=8, ha="left")
    return start + max(points)


if __name__ == "__main__":
    main()
