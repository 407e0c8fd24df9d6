"""The scores that `quantsr evaluate --zoo` checks, from the results of benchmarks/evaluate_all.sh.

python benchmarks/scores.py
"""

import hashlib
import json
from pathlib import Path

from quantsr import zoo

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    stored = {name: {"sha256": _sha256(name), "scores": _scores(name)} for name in zoo.bundled()}
    path = Path(__file__).parents[1] / "src/quantsr/weights" / zoo.SCORES.name
    path.write_text(json.dumps(stored, indent=1) + "\n")


def _sha256(name: str) -> str:
    return hashlib.sha256(zoo.find(name).read_bytes()).hexdigest()


def _scores(name: str) -> dict[str, dict[str, dict[str, float]]]:
    """depth -> set -> psnr, ssim."""
    rows = json.loads((RESULTS / f"quality-{name.removeprefix('quantsr-').removeprefix('c-')}.json").read_text())[
        "results"
    ]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        scores.setdefault(row["depth"], {})[row["set"]] = {key: round(row[key], 4) for key in ("psnr", "ssim")}
    return scores


if __name__ == "__main__":
    main()
