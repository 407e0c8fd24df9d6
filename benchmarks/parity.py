"""How far engine and torch are from the reference on real pictures, at full depth.

python benchmarks/parity.py DIR MODEL..., where DIR holds Set5. Writes benchmarks/results/parity.json.
"""

import json
import sys
from pathlib import Path

import numpy as np

from quantsr import metrics, zoo
from quantsr.backends import BACKENDS
from quantsr.data import benchmarks

ROOT = Path(__file__).parents[1]


def main(data: Path, names: list[str]) -> None:
    rows = [row for name in names for row in compare(data, name)]
    (ROOT / "benchmarks/results/parity.json").write_text(json.dumps({"results": rows}, indent=2))
    print("| model | depth | backend | differing samples | largest difference | PSNR minus the reference's |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        shown = f"{row['share']:.4%} | {row['largest']} | {row['psnr_change']:+.5f} dB"
        print(f"| {row['model']} | {row['depth']} | {row['backend']} | {shown} |")


def compare(data: Path, name: str) -> list[dict[str, object]]:
    packed = zoo.load_packed(name)
    scale = packed.info["upscale"]
    pairs = list(benchmarks.pairs(data, "Set5", scale))
    run = {backend: make(packed, "full", None) for backend, make in BACKENDS.items()}
    expected = [run["reference"](pair.lr) for pair in pairs]
    rows = []
    for backend in ("engine", "torch"):
        got = [run[backend](pair.lr) for pair in pairs]
        gaps = np.concatenate([np.abs(a.astype(int) - b).ravel() for a, b in zip(got, expected, strict=True)])
        change = [
            metrics.psnr(a, pair.hr, scale) - metrics.psnr(b, pair.hr, scale)
            for a, b, pair in zip(got, expected, pairs, strict=True)
        ]
        rows.append(
            {
                "model": name,
                "depth": "full",
                "backend": backend,
                "share": float(np.mean(gaps > 0)),
                "largest": int(gaps.max()),
                "psnr_change": float(np.mean(change)),
            }
        )
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
