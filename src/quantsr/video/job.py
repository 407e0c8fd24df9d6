"""The segments of a result while it is made, in a folder beside it, so that a run that was stopped can go on.

The folder holds `job.json` (source, settings, times of all frames) and the finished segments. Everything in it has its
name only once it is whole and flushed to disk, so whatever is there is finished.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from quantsr.files import lock, write_atomically
from quantsr.video.clip import Times, VideoError

FACTS, LOCK, MADE = "job.json", "lock", "made.json"
RESULT = ".result.tmp"


class Job:
    """facts: what decides the frames of the result, as JSON takes it.

    made: the result is there, and is this job's. found: something of its name is there, and nothing was left of its
    making: with `resume` it may be the result of a run that ended well, which is for the caller to look at.

    Raises VideoError if another run is at it, if the result exists (unless `force` or found), or if it was begun before
    and `resume` and `force` are False, or `resume` is True and the facts were others.
    """

    def __init__(self, target: Path, facts: dict[str, Any], *, resume: bool, force: bool) -> None:
        self.target, self._facts, self._force = target, json.loads(json.dumps(facts)), force
        # Short, as the target's may be of the greatest length; and the same for another container, which the segments
        # fit as well.
        name = hashlib.sha256(os.fsencode(target.stem)).hexdigest()[:16]
        self.folder = target.with_name(f".quantsr-{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        self._lock = (self.folder / LOCK).open("a+b")
        if not lock(self._lock):
            raise VideoError(f"{target}: another run is making it")
        try:
            old = self._read()
            self.made = resume and old is not None and self._is_made()
            there = os.path.lexists(target) and not force
            self.found = there and resume and old is None
            if there and not self.made and not self.found:
                raise self._exists()
            self.times = self._resumed(old) if resume and old else self._fresh(old, force)
        except BaseException:
            self.leave()
            raise

    def begin(self, times: Times) -> None:
        self.times = times
        facts = {"facts": self._facts, "begin": times.begin.tolist(), "last": times.last.tolist()}
        write_atomically(self.folder / FACTS, json.dumps(facts).encode())

    def finished(self) -> int:
        """How many segments are there, from the first on."""
        count = 0
        while self.segment(count).exists():
            count += 1
        return count

    def segment(self, number: int) -> Path:
        return self.folder / f"{number:06}.mkv"

    def write(self, number: int, write: Callable[[BinaryIO], object]) -> None:
        """Makes a segment by `write`."""
        write_atomically(self.segment(number), write)

    def put_together(self, write: Callable[[BinaryIO], object]) -> None:
        """Makes the result by `write`. Raises VideoError, unless by force, if its place was taken meanwhile."""

        def marked(file: BinaryIO) -> None:
            write(file)
            file.seek(0, os.SEEK_END)
            write_atomically(self.folder / MADE, json.dumps({"size": file.tell(), "inode": _inode(file)}).encode())

        try:
            write_atomically(self.target, marked, self.folder / RESULT, new=not self._force)
        except FileExistsError as error:
            raise self._exists() from error

    def _exists(self) -> VideoError:
        return VideoError(f"{self.target} exists; pass --force to overwrite it")

    def clear(self) -> None:
        """Takes the folder away, once the result is there."""
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """Ends work on it. What holds no segment is taken away."""
        self._lock.close()
        if not self.finished():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _resumed(self, old: dict[str, Any]) -> Times:
        before = old["facts"]
        other = sorted(key for key in before.keys() | self._facts if before.get(key) != self._facts.get(key))
        if other and self.finished():
            raise VideoError(
                f"{self.target}: was begun with another {' and '.join(other)}; --force without --resume begins again"
            )
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        return Times(array("q"), array("q")) if other else Times(array("q", old["begin"]), array("q", old["last"]))

    def _fresh(self, old: dict[str, Any] | None, force: bool) -> Times:
        if old and self.finished() and not force:
            raise VideoError(
                f"{self.target}: was begun before, {self.finished()} segments are there; pass --resume to go on, "
                "or --force to begin again"
            )
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        return Times(array("q"), array("q"))

    def _read(self) -> dict[str, Any] | None:
        with suppress(FileNotFoundError, ValueError):
            old: dict[str, Any] = json.loads((self.folder / FACTS).read_bytes())
            return old
        return None

    def _is_made(self) -> bool:
        """Whether the target is the result that this job renamed, just before it was stopped."""
        with suppress(FileNotFoundError, ValueError):
            made = json.loads((self.folder / MADE).read_bytes())
            facts = self.target.stat()
            return bool(made == {"size": facts.st_size, "inode": facts.st_ino})
        return False


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino
