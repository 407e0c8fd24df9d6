"""A process that holds one engine: `python -m quantsr.bench.worker`.

First line in: a Job as JSON and what to do. "build": prepare files, answer {}, end. "serve": load, warm up, answer the
seconds of a run; then for each line with a number N run N times and answer seconds of CPU and wall time per run; for
"end", leave the result in a file, answer what there is to know, end. Answers are lines of JSON.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from quantsr.bench.engines import engines
from quantsr.bench.job import Job, Runner

WARM_UPS = 3


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    request = json.loads(sys.stdin.readline())
    fields = request["job"]
    paths = {name: Path(fields[name]) for name in ("network", "built", "image", "output")}
    job = Job(**fields | paths)
    engine = engines()[job.engine]
    if request["do"] == "build":
        engine.prepare(job)
        _answer(answers, {})
        return
    runner = engine.load(job)
    for _ in range(WARM_UPS):
        start = time.perf_counter()
        runner.run()
        seconds = time.perf_counter() - start
    _answer(answers, seconds)
    _serve(runner, job, answers)


def _serve(runner: Runner, job: Job, answers: TextIO) -> None:
    for line in sys.stdin:
        if line.strip() == "end":
            peak = peak_mib()
            np.save(job.output, runner.result())
            _answer(answers, {"kernels": dict(runner.kernels()), "peak_mib": peak})
            return
        _answer(answers, _timed(runner, int(line)))


def _timed(runner: Runner, count: int) -> tuple[float, float]:
    if count > 1:
        runner.run()  # a short run would mostly measure caches that others have filled
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        runner.run()
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def peak_mib() -> float:
    """Most memory that this process held. On Linux ru_maxrss would also count the parent's at the time of the fork."""
    try:
        text = Path("/proc/self/status").read_text()
        kib = int(text.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return kib / 1024


def _answer(answers: TextIO, what: Any) -> None:
    answers.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main()
