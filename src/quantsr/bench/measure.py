"""Measuring engines against each other: each in a process of its own, taking turns."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from quantsr.bench.job import Job

SHORTEST_TURN = 0.05  # seconds; a shorter run is repeated within its turn
# What oneDNN calls the limits of --max-isa.
ONEDNN_ISAS = {"avx2": "AVX2", "avxvnni": "AVX2_VNNI", "avx512vnni": "AVX512_CORE_VNNI"}
LIMITS = tuple(ONEDNN_ISAS)


class WorkerError(Exception):
    """A worker ended without an answer; the text is the last that it said."""


@dataclass(frozen=True)
class Measured:
    """cpu, wall: seconds of a run in each round. kernels, peak_mib: as the worker says."""

    cpu: list[float]
    wall: list[float]
    kernels: Mapping[str, int]
    peak_mib: float


class Worker:
    """Talks to one worker process; see `quantsr.bench.worker`."""

    def __init__(self, job: Job, do: str, limit: str | None) -> None:
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quantsr.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | _variables(job.threads, limit),
        )
        self.send(json.dumps({"do": do, "job": asdict(job)}, default=str))

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer will tell

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()
            raise WorkerError(said[-1] if said else f"exit code {self.process.returncode}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def build(job: Job, limit: str | None) -> None:
    """Lets an engine prepare its files. Raises WorkerError."""
    with Worker(job, "build", limit) as worker:
        worker.answer()


def measure(
    jobs: Sequence[Job], rounds: int, limit: str | None, every_round: Callable[[], None]
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Times and facts of each engine; and what went wrong, of those that failed.

    All are loaded and warmed up one after the other; then in every round each has one turn, in an order that shifts
    from round to round. `every_round` is called once in each.
    """
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        turns: dict[str, _Turns] = {}
        for job in jobs:
            worker = stack.enter_context(Worker(job, "serve", limit))
            with _noting(job.engine, failed):
                turns[job.engine] = _Turns(worker, max(1, math.ceil(SHORTEST_TURN / worker.answer())))
        for number in range(rounds):
            every_round()
            first = number % max(1, len(jobs))
            for job in (*jobs[first:], *jobs[:first]):
                if job.engine not in failed:
                    with _noting(job.engine, failed):
                        turns[job.engine].take()
        measured = {}
        for job in jobs:
            if job.engine not in failed:
                with _noting(job.engine, failed):
                    measured[job.engine] = turns[job.engine].end()
        return measured, failed


class _Turns:
    """count: runs in a turn."""

    def __init__(self, worker: Worker, count: int) -> None:
        self.worker, self.count = worker, count
        self.times: list[tuple[float, float]] = []

    def take(self) -> None:
        self.worker.send(str(self.count))
        self.times.append(self.worker.answer())

    def end(self) -> Measured:
        self.worker.send("end")
        facts = self.worker.answer()
        cpu, wall = zip(*self.times, strict=True)
        return Measured(list(cpu), list(wall), facts["kernels"], facts["peak_mib"])


@contextmanager
def _noting(engine: str, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        failed[engine] = str(error)


def _variables(threads: int, limit: str | None) -> dict[str, str]:
    """Environment of a worker: threads for OpenMP and MKL, no spinning, the instruction set at most."""
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }
    if limit is not None:
        variables |= {"QUANTSR_ISA": limit, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISAS[limit]}
        if limit == "avx2":
            variables["ATEN_CPU_CAPABILITY"] = "avx2"
    return variables
