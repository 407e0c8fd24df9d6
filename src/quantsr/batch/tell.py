"""What a batch tells while it runs: a live line for people, JSON lines for programs, a report at the end."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from quantsr.batch.plan import Job
from quantsr.batch.resources import printable
from quantsr.batch.run import Batch, Outcome
from quantsr.files import write_atomically


class Teller(Protocol):
    def begin(self, batch: Batch) -> None: ...
    def progress(self, job: Job, share: float) -> None: ...
    def file(self, outcome: Outcome) -> None: ...
    def end(self, outcomes: list[Outcome], state: str) -> None: ...


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome for programs."""
    facts: dict[str, Any] = {
        "source": str(outcome.job.source),
        "target": str(outcome.job.target),
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.status == "done":
        facts |= {"width": outcome.width, "height": outcome.height}
    return facts | ({"error": outcome.error} if outcome.error else {})


def totals(outcomes: list[Outcome], jobs: int, state: str) -> dict[str, Any]:
    """state: "complete", "interrupted" or "no room". left: jobs that were not come to."""
    counts = Counter(outcome.status for outcome in outcomes)
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    return {
        "state": state,
        "files": jobs,
        "done": counts["done"],
        "skipped": counts["skipped"],
        "failed": counts["failed"],
        "left": jobs - len(outcomes),
        "megapixels": round(sum(o.width * o.height for o in done) / 1e6, 3),
        "seconds": round(sum(o.seconds for o in outcomes), 3),
    }


def write_report(path: Path, batch: Batch, outcomes: list[Outcome], state: str, settings: dict[str, Any]) -> None:
    report = totals(outcomes, len(batch.jobs), state) | {"settings": settings}
    write_atomically(path, json.dumps(report | {"results": [record(o) for o in outcomes]}, indent=1).encode())


class JsonLines:
    """One object a line on stdout: "begin", "file" and "end" under "event"."""

    def begin(self, batch: Batch) -> None:
        self._jobs = len(batch.jobs)
        self._print("begin", {"files": self._jobs})

    def progress(self, job: Job, share: float) -> None:
        self._print("progress", {"source": str(job.source), "share": round(share, 4)})

    def file(self, outcome: Outcome) -> None:
        self._print("file", record(outcome))

    def end(self, outcomes: list[Outcome], state: str) -> None:
        self._print("end", totals(outcomes, self._jobs, state))

    def _print(self, event: str, facts: dict[str, Any]) -> None:
        print(json.dumps({"event": event} | facts), flush=True)


class ForPeople:
    """A line for each file, and on a terminal a bar with files, megapixels per second and time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.fields[files]}"),
            BarColumn(),
            _Speed(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not sys.stderr.isatty(), transient=True)

    def begin(self, batch: Batch) -> None:
        self._resumable = batch.journal is not None
        self._area = {source: f.width * f.height * batch.model.scale**2 / 1e6 for source, f in batch.facts.items()}
        self._jobs, self._done, self._passed = len(batch.jobs), 0, 0.0
        total = sum(self._area.get(job.source, 0) for job in batch.jobs)
        self._task = self._bar.add_task("", total=total or None, files=self._files())
        self._bar.start()

    def progress(self, job: Job, share: float) -> None:
        self._bar.update(self._task, completed=self._passed + share * self._area.get(job.source, 0))

    def file(self, outcome: Outcome) -> None:
        self._done += 1
        job = outcome.job
        if outcome.status == "skipped":  # no work: takes nothing from the time left
            self._bar.update(self._task, total=(self._bar.tasks[0].total or 0) - self._area.get(job.source, 0))
        else:
            self._passed += self._area.get(job.source, 0)
        self._bar.update(self._task, completed=self._passed, files=self._files())
        if outcome.status == "failed":
            self._console.print(f"quantsr: {printable(outcome.error)}", style="red", **_PLAIN)
        elif outcome.status == "done":
            size = f"{outcome.width}x{outcome.height}  {outcome.seconds:.1f} s"
            print(f"{printable(job.source)} -> {printable(job.target)}  {size}", flush=True)

    def end(self, outcomes: list[Outcome], state: str) -> None:
        self._bar.stop()
        facts = totals(outcomes, self._jobs, state)
        if facts["files"] > 1 or facts["skipped"]:
            counts = ", ".join(f"{facts[key]} {key}" for key in ("done", "skipped", "failed", "left") if facts[key])
            speed = facts["megapixels"] / facts["seconds"] if facts["seconds"] else 0
            self._console.print(f"{counts or 'nothing to do'}; {speed:.2f} megapixels/s", **_PLAIN)
        if state != "complete" and self._resumable:
            self._console.print("the same command with --resume goes on from here", **_PLAIN)

    def _files(self) -> str:
        return f"{self._done}/{self._jobs} files"


_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} megapixels/s" if task.speed else "")
