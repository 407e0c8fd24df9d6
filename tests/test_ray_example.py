"""examples/ray_upscale.py on a cluster of two CPUs on this machine: the same files as `quantsr upscale`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantsr.cli import main

pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "examples" / "ray_upscale.py"
MODEL = ("-n", "quantsr-c-x2-w4a4", "--depth", "quarter")


def enlarge(*words: object) -> subprocess.CompletedProcess[str]:
    start = "import runpy, sys, ray; sys.argv = sys.argv[1:]; ray.init(num_cpus=2, include_dashboard=False)"
    start += f"; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", start, "ray_upscale", *map(str, words), *MODEL, "--actors", "2"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    )


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_a_cluster_makes_the_files_of_one_machine(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG nonsense")
    assert main(["upscale", str(photos), "-o", str(tmp_path / "one"), "-r", "--threads", "1", *MODEL]) == 3
    done = enlarge(photos, "-o", tmp_path / "many")
    assert done.returncode == 3, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(row["status"] for row in told) == ["done"] * 8 + ["failed"]
    (failed,) = [row for row in told if row["status"] == "failed"]
    assert failed["source"].endswith("bad.png") and "not a readable image" in failed["error"]
    assert results(tmp_path / "many") == results(tmp_path / "one")

    assert enlarge(photos, "-o", tmp_path / "many").returncode == 1  # nothing is overwritten
    (photos / "bad.png").unlink()
    (tmp_path / "many" / "3_x2.png").unlink()
    again = enlarge(photos, "-o", tmp_path / "many", "--resume")
    assert again.returncode == 0 and "1 done, 7 skipped" in again.stderr, again.stderr
    assert results(tmp_path / "many") == results(tmp_path / "one")
    report = tmp_path / "report.json"
    arguments = ["-o", str(tmp_path / "many"), "-r", "--resume", "--report", str(report)]
    assert main(["upscale", str(photos), *arguments, *MODEL]) == 0
    assert json.loads(report.read_text())["skipped"] == 8
