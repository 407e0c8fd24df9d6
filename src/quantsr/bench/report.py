"""Results for people: tables in the terminal, bars in a picture."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from quantsr.bench.rows import Row
from quantsr.streams import printable

CASE = ("network", "part", "tail", "size", "threads")


def title(facts: Row) -> str:
    """What a case is, from any of its rows or from less: network, part, tail, size, threads."""
    words = [printable(facts["network"]), facts["part"]]
    if facts["part"] == "network":
        words.append(f"tail {facts['tail']}")
    if "size" in facts:
        words.append(f"{facts['size']}")
        words.append(f"{facts['threads']} thread" + "s" * (facts["threads"] > 1))
    return ", ".join(words)


def table(rows: list[Row]) -> str:
    """One case: times in ms, and how many times the CPU and wall time of ours each engine takes."""
    widths = (20, 9, 17, 9, 7, 7, 8, 7, 6)
    heads = ("engine", "cpu ms", "quartiles", "wall ms", "x cpu", "x wall", "GMAC/s", "PSNR", "MiB")
    lines = [title(rows[0]), _line(heads, widths)]
    for row in rows:
        low, high = row["cpu_ms_quartiles"]
        cells = (
            row["engine"] + " *" * (not row["limited"]),
            f"{row['cpu_ms']:.2f}",
            f"{low:.2f}..{high:.2f}",
            f"{row['wall_ms']:.2f}",
            _number(row["cpu_ratio"], ".2f"),
            _number(row["wall_ratio"], ".2f"),
            f"{row['gmacs']:.0f}",
            _number(row["psnr"], ".2f"),
            f"{row['peak_mib']:.0f}",
        )
        lines.append(_line(cells, widths) + "  " + ", ".join(f"{n} {k}" for k, n in row["kernels"].items()))
    if not all(row["limited"] for row in rows):
        lines.append("* cannot be limited: uses every instruction set that the CPU has")
    return "\n".join(lines)


def check_plot(path: Path) -> None:
    """Before the work: raises ModuleNotFoundError without matplotlib, ValueError for a format that it does not know."""
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"--plot: got {path}, wanted a file that ends in .{', .'.join(known)}")


def plot(rows: Iterable[Row], path: Path) -> None:
    """A panel of bars for each case: CPU time of one thread, wall time of more.

    Needs matplotlib; the format follows from the name.
    """
    from matplotlib.figure import Figure

    cases = list(by_case(rows))
    figure = Figure(figsize=(7, 0.6 + sum(0.5 + 0.24 * len(case) for case in cases)), layout="constrained")
    heights = [2 + len(case) for case in cases]
    axes = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, case in zip(axes, cases, strict=True):
        _bars(axis, case)
    figure.savefig(path, dpi=150)


def by_case(rows: Iterable[Row]) -> Iterator[list[Row]]:
    for _, case in groupby(rows, key=lambda row: [row[key] for key in CASE]):
        yield list(case)


def _bars(axis: Any, case: list[Row]) -> None:
    names = [row["engine"] for row in case]
    colors = ["#c44e52" if name.startswith("quantsr") else "#8c8c8c" for name in names]
    kind = "cpu" if case[0]["threads"] == 1 else "wall"
    bars = axis.barh(names, [row[f"{kind}_ms"] for row in case], color=colors)
    axis.bar_label(bars, fmt=lambda ms: f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}", padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(f"{title(case[0])}: {kind} ms", fontsize="medium", loc="left")


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    first, *others = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return " ".join([first.strip().ljust(22), *others])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
