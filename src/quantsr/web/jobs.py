"""Jobs: a bounded queue, one worker thread, results that expire.

Photos and results lie in files of a temporary folder, so that waiting jobs and finished ones take no memory. Names of
files are made here, never taken from a client.
"""

import contextlib
import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from quantsr.photos import PhotoError

State = Literal["waiting", "running", "done", "failed"]

KEPT_SECONDS = 600.0
KEPT_RESULTS = 16  # the oldest goes first
LOOK_SECONDS = 15.0  # between two looks for what has expired, while idle
ID_BYTES = 24
OPTIONS = re.compile(r"; [^;]*--\w[^;]*$")

log = logging.getLogger(__name__)


class Full(Exception):
    """No place in the queue."""


class Cancelled(Exception):
    """Ends the work on a job."""


@dataclass(eq=False)
class Job:
    """width and height: of the result. seconds: from the start of the work to its end."""

    photo: Path
    result: Path
    model: str
    scale: int
    depth: str
    width: int
    height: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(ID_BYTES))
    state: State = "waiting"
    progress: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    expires: float = 0.0
    error: str | None = None
    cancelled: bool = False


Work = Callable[[Job, Callable[[float], None]], None]


class Jobs:
    """work: does one job, telling the share done to its second argument, which raises Cancelled.

    limit: jobs that may wait, uploads under way included. clock: seconds.
    """

    def __init__(
        self, work: Work, limit: int, kept_seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work, self._limit, self._kept_seconds, self._clock = work, limit, kept_seconds, clock
        self._folder = tempfile.TemporaryDirectory(prefix="quantsr-")
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._uploads = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="quantsr-worker", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keeps a place in the queue for an upload, during which `submit` may be called once. Raises Full."""
        with self._changed:
            if len(self._waiting) + self._uploads >= self._limit:
                raise Full
            self._uploads += 1
        try:
            yield
        finally:
            with self._changed:
                self._uploads -= 1

    @contextmanager
    def received(self, upload: BinaryIO) -> Iterator[Path]:
        """The upload as a file of its own, which goes away again unless it is submitted."""
        photo = Path(self._folder.name, f"{secrets.token_hex(ID_BYTES)}.photo")
        try:
            with open(photo, "xb") as file:
                shutil.copyfileobj(upload, file)
            yield photo
        except BaseException:
            photo.unlink(missing_ok=True)
            raise

    def submit(self, photo: Path, model: str, scale: int, depth: str, size: tuple[int, int], format: str) -> Job:
        """photo: as `received` gave it. size: width and height of the result. format: its suffix, without a dot."""
        job = Job(photo, photo.with_suffix(f".{format}"), model, scale, depth, *size)
        with self._changed:
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify()
        return job

    def get(self, name: str) -> Job | None:
        with self._changed:
            self._drop_old()
            return self._jobs.get(name)

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def seconds(self, job: Job) -> float:
        """That the work has taken so far, or took."""
        return self._clock() - job.started if job.state == "running" else job.seconds

    def delete(self, name: str) -> bool:
        """Cancels, or forgets what is finished; False if there is no such job. Work that runs ends with its tile."""
        with self._changed:
            self._drop_old()
            job = self._jobs.get(name)
            if job is not None:
                self._drop(job)
            return job is not None

    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        with self._changed:
            return not self._waiting and self._running is None

    def close(self) -> None:
        """Cancels everything and removes all files."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._drop(job)
            self._changed.notify()
        self._thread.join()
        self._folder.cleanup()

    def _drop(self, job: Job) -> None:
        del self._jobs[job.id]
        job.cancelled = True
        if job in self._waiting:
            self._waiting.remove(job)
        if job is not self._running:
            _remove_files(job)

    def _drop_old(self) -> None:
        finished = sorted((job for job in self._jobs.values() if job.expires), key=lambda job: job.expires)
        surplus = len(finished) - KEPT_RESULTS
        for index, job in enumerate(finished):
            if index < surplus or job.expires <= self._clock():
                self._drop(job)

    def _serve(self) -> None:
        while job := self._next():
            error = self._do(job)
            with self._changed:
                self._running = None
                self._finish(job, error)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait(LOOK_SECONDS)
                self._drop_old()
            if self._closed:
                return None
            job = self._waiting.popleft()
            job.state, job.started = "running", self._clock()
            self._running = job
            return job

    def _do(self, job: Job) -> str | None:
        """Returns what went wrong, as a sentence."""

        def advance(share: float) -> None:
            job.progress = share
            if job.cancelled:
                raise Cancelled

        try:
            self._work(job, advance)
        except Cancelled:
            return "cancelled"
        except PhotoError as error:
            return told(error, job.photo, job.result)
        except MemoryError:
            return "there is not enough memory for this photo; choose a smaller one"
        except Exception:  # the server goes on; the log has the cause
            log.exception("a job failed")
            return "the server failed on this photo; its log tells why"
        return None

    def _finish(self, job: Job, error: str | None) -> None:
        job.photo.unlink(missing_ok=True)
        if job.cancelled:
            _remove_files(job)
            return
        job.seconds = self._clock() - job.started
        job.expires = self._clock() + self._kept_seconds
        job.error, job.state = error, "failed" if error else "done"
        self._drop_old()


def told(error: PhotoError, *files: Path) -> str:
    """What is wrong with a photo, without the server's names for its files and what the command line advises."""
    text = str(error)
    for file in files:
        text = text.removeprefix(f"{file}: ").replace(str(file), "the photo")
    return OPTIONS.sub("", text)


def _remove_files(job: Job) -> None:
    for path in (job.photo, job.result):
        with contextlib.suppress(PermissionError):  # Windows: it is being sent, and goes with the folder
            path.unlink(missing_ok=True)
