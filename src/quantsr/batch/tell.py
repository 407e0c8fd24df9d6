"""What a batch tells while it runs: a live line for people, JSON lines for programs, a report at the end."""

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from quantsr.batch.plan import Job
from quantsr.batch.run import Batch, Outcome
from quantsr.files import holds_json, identity, require_folder, write_atomically
from quantsr.streams import heard_or_not, printable
from quantsr.terminal import PLAIN, Console, Heartbeat, bar, print_event, print_line


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


def check_report(path: Path, jobs: list[Job], *, force: bool) -> None:
    """Raises ValueError, or OSError, if a report there would harm a file, or could not be written."""
    place, own = Path(os.path.realpath(path)), identity(path)
    if own is not None and own in {identity(job.source) for job in jobs}:
        raise ValueError(f"--report: got the input {path}; wanted another file")
    targets = {Path(os.path.realpath(job.target)) for job in jobs}
    if place in targets:
        raise ValueError(f"--report: got {path}, where a result is written; wanted another file")
    if path.is_dir() or any(place in target.parents for target in targets):
        raise ValueError(f"--report: got the folder {path}, wanted a file")
    if not os.access(require_folder(path.parent), os.W_OK):
        raise PermissionError(errno.EACCES, "--report: no permission to write", str(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):  # such as /dev/stdout, which would be replaced
        raise ValueError(f"--report: got {path}, wanted a plain file")
    if not force and path.exists() and not holds_json(path, "state", "results"):
        raise ValueError(f"--report: {path} exists and is no report; pass --force to overwrite it")


def write_report(path: Path, batch: Batch, outcomes: list[Outcome], state: str, settings: dict[str, Any]) -> None:
    facts = {"passed_over": batch.passed_over, "settings": settings}
    report = totals(outcomes, len(batch.jobs), state) | facts
    write_atomically(path, json.dumps(report | {"results": [record(o) for o in outcomes]}, indent=1).encode())


class Unbothered:
    """Tells by another teller. Where nobody listens any more, the work goes on."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def begin(self, batch: Batch) -> None:
        with heard_or_not():
            self._teller.begin(batch)

    def progress(self, job: Job, share: float) -> None:
        with heard_or_not():
            self._teller.progress(job, share)

    def file(self, outcome: Outcome) -> None:
        with heard_or_not():
            self._teller.file(outcome)

    def end(self, outcomes: list[Outcome], state: str) -> None:
        with heard_or_not():
            self._teller.end(outcomes, state)


class JsonLines:
    """One object a line on stdout: "begin", "progress", "file" and "end" under "event"."""

    def begin(self, batch: Batch) -> None:
        self._jobs = len(batch.jobs)
        print_event("begin", {"files": self._jobs, "passed_over": batch.passed_over})

    def progress(self, job: Job, share: float) -> None:
        print_event("progress", {"source": str(job.source), "share": round(share, 4)})

    def file(self, outcome: Outcome) -> None:
        print_event("file", record(outcome))

    def end(self, outcomes: list[Outcome], state: str) -> None:
        print_event("end", totals(outcomes, self._jobs, state))


class ForPeople:
    """A line for each file, and on a terminal a bar with files, megapixels per second and time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._heartbeat = Heartbeat(self._console)
        self._bar = bar(self._console, TextColumn("{task.fields[files]}"), BarColumn(), _Speed(), TimeRemainingColumn())

    def begin(self, batch: Batch) -> None:
        self._resumable = batch.journal is not None
        self._area = {source: f.width * f.height * batch.model.scale**2 / 1e6 for source, f in batch.facts.items()}
        self._jobs, self._done, self._passed = len(batch.jobs), 0, 0.0
        total = sum(self._area.get(job.source, 0) for job in batch.jobs)
        self._task = self._bar.add_task("", total=total or None, files=self._files())
        self._bar.start()

    def progress(self, job: Job, share: float) -> None:
        self._bar.update(self._task, completed=self._passed + share * self._area.get(job.source, 0))
        self._heartbeat.tell(f"{self._files()}; {share:.0%} of {printable(job.source)}")

    def file(self, outcome: Outcome) -> None:
        self._done += 1
        job = outcome.job
        if outcome.status == "skipped":  # no work: takes nothing from the time left
            self._bar.update(self._task, total=(self._bar.tasks[0].total or 0) - self._area.get(job.source, 0))
        else:
            self._passed += self._area.get(job.source, 0)
        self._bar.update(self._task, completed=self._passed, files=self._files())
        if outcome.status == "failed":
            self._console.print(f"quantsr: {printable(outcome.error)}", style="red", **PLAIN)
        elif outcome.status == "done":
            size = f"{outcome.width}x{outcome.height}  {outcome.seconds:.1f} s"
            print_line(self._console, f"{printable(job.source)} -> {printable(job.target)}  {size}")

    def end(self, outcomes: list[Outcome], state: str) -> None:
        self._bar.stop()
        facts = totals(outcomes, self._jobs, state)
        if facts["files"] != 1 or facts["skipped"]:
            counts = ", ".join(f"{facts[key]} {key}" for key in ("done", "skipped", "failed", "left") if facts[key])
            speed = f"; {facts['megapixels'] / facts['seconds']:.2f} megapixels/s" if facts["megapixels"] else ""
            self._console.print(f"{counts or 'nothing to do'}{speed}", **PLAIN)
        if state != "complete" and self._resumable:
            self._console.print("the same command with --resume goes on from here", **PLAIN)

    def _files(self) -> str:
        return f"{self._done}/{self._jobs} files"


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} megapixels/s" if task.speed else "")
