"""Learning curves of the shipped models from their logs: python benchmarks/curves.py

Reads what benchmarks/history.py does, writes docs/pictures/learning-curves.png. Needs the extra `plot`.
"""

from pathlib import Path

import history
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
FAMILIES = {  # file in checkpoints/ -> title
    "x4-w4a4": "x4, 4 bits",
    "x4-w2a2": "x4, 2 bits",
    "x3-w4a4": "x3, 4 bits",
    "x2-w4a4": "x2, 4 bits",
    "t-x4-w4a4": "QuantSR-T x4, 4 bits",
    "t-x4-w2a2": "QuantSR-T x4, 2 bits",
    "t-x2-w4a4": "QuantSR-T x2, 4 bits",
}
COLOURS = {"full": "tab:blue", "half": "tab:orange", "quarter": "tab:green"}


def main() -> None:
    kept = history.shipped()
    figure, axes = plt.subplots(1, len(FAMILIES), figsize=(23, 4), layout="constrained")
    for axis, (file, title) in zip(axes, FAMILIES.items(), strict=True):
        runs = history.chain(kept[file])
        start = 0
        for place, run in enumerate(run for run in runs if run.config.model.upscale == runs[-1].config.model.upscale):
            start = draw(axis, run, start, height=0.02 + 0.14 * (place % 3))
        axis.set(title=title, xlabel="step", ylabel="PSNR on held-out photographs, dB")
        axis.grid(alpha=0.3)
    axes[-1].legend(loc="center left")
    figure.savefig(ROOT / "docs/pictures/learning-curves.png", dpi=110)


def draw(axis: plt.Axes, run: history.Run, start: int, height: float) -> int:
    """One run's validations, each depth a line; returns the step at which the next run starts."""
    points = run.validations
    for depth in next(iter(points.values())):
        axis.plot(
            [start + step for step in points],
            [scores[depth] for scores in points.values()],
            marker="o",
            color=COLOURS[depth],
            label=depth if run.name.endswith("dqa") else None,
        )
    axis.axvline(start, color="gray", linewidth=0.7)
    label = run.name.partition("x")[2][2:]  # without t- and the scale, which the title tells
    axis.annotate(label, (start, height), xycoords=("data", "axes fraction"), rotation=90, fontsize=8, ha="left")
    return start + max(points)


if __name__ == "__main__":
    main()
