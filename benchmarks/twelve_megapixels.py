"""What a result of 12 megapixels takes on two threads, at each depth: python benchmarks/twelve_megapixels.py DATA

DATA: folder of the benchmark sets. The input, 1000x750, is nine photographs of B100 side by side. Each row is the whole
command, a process of its own: start, reading, network, comparison with the input, writing a PNG. CPU time and wall time
are the best of three, memory the most of three. On a machine that does other work too the wall time says little.
Writes benchmarks/results/twelve-megapixels.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from quantsr.bench.machine import machine, versions
from quantsr.data import benchmarks
from quantsr.engine import available_isas

MODEL, THREADS, TIMES = "quantsr-c-x4-w4a4", 2, 3
HEIGHT, WIDTH = 750, 1000
DEPTHS = ("full", "half", "quarter")


def collage(data: Path) -> np.ndarray:
    """Nine photographs, three by three, cut to 250x334 each."""
    hr = (pair.hr for pair in benchmarks.pairs(data, "B100", 4))
    wide = [picture for picture in hr if picture.shape[1] > picture.shape[0]]
    rows = [np.hstack([hr[:250, :334] for hr in wide[3 * row : 3 * row + 3]]) for row in range(3)]
    return np.vstack(rows)[:HEIGHT, :WIDTH]


def measured(folder: Path, isa: str, *options: str) -> dict[str, float]:
    """Seconds of CPU and wall, and MiB, of one command."""
    command = [sys.executable, "-m", "quantsr", "upscale", "in.png", "-o", "out.png", "--force", "-n", MODEL]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--threads", str(THREADS), *options],
        cwd=folder, env=os.environ | {"QUANTSR_ISA": isa}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command} ended with {status}")
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "wall_seconds": wall, "peak_mib": used.ru_maxrss / 1024}


def best(folder: Path, isa: str, *options: str) -> dict[str, float]:
    runs = [measured(folder, isa, *options) for _ in range(TIMES)]
    found = {key: min(run[key] for run in runs) for key in ("cpu_seconds", "wall_seconds")}
    return {key: round(value, 2) for key, value in found.items()} | {
        "peak_mib": round(max(run["peak_mib"] for run in runs)),
        "load": os.getloadavg()[0],
    }


def main(data: Path) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(collage(data)).save(folder / "in.png")
        isas = [isa for isa in available_isas()[::-1] if isa != "ref"]
        for isa in isas:
            for depth in DEPTHS:
                rows.append({"isa": isa, "depth": depth} | best(folder, isa, "--depth", depth))
                print(rows[-1], flush=True)
        rows.append({"isa": isas[0], "depth": "full", "memory": "300MiB"} | best(folder, isas[0], "--memory", "300MiB"))
        print(rows[-1], flush=True)
        size = Image.open(folder / "out.png").size
    result = {
        "machine": machine(), "versions": versions(), "model": MODEL, "threads": THREADS,
        "result": list(size), "rows": rows,
    }  # fmt: skip
    path = Path(__file__).parent / "results/twelve-megapixels.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
