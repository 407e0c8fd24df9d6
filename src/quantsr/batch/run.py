"""The loop over a batch: one bad file never stops the rest, and nothing half-made ever has a final name."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from quantsr import photos
from quantsr.batch import resources
from quantsr.batch.journal import Journal, state_of
from quantsr.batch.plan import Job
from quantsr.batch.resources import shown
from quantsr.engine import TooLittleMemory
from quantsr.files import identity, name_beside, nearest
from quantsr.model import Model
from quantsr.photos import Facts, Photo, PhotoError

FULL = (errno.ENOSPC, errno.EDQUOT)  # every further result would fail alike
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
NAME_BYTES = 255


class NoRoom(OSError):
    """The disk takes no more."""


class NotWritten(OSError):
    """The place of a result refuses it; it may still take others."""


@dataclass(frozen=True)
class Settings:
    """How photographs are enlarged. memory: bytes of the whole process; None takes what the machine has left.

    check: compare each result with its input. resume: pass over what the journal calls finished.
    """

    depth: str = "full"
    tile: int | None = None
    memory: int | None = None
    quality: int | None = None
    strip: bool = False
    check: bool = True
    force: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one job. width and height: of the result, 0 if there is none. denied: no permission."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    error: str = ""
    denied: bool = False


@dataclass
class Batch:
    """Jobs with what they share. inputs: every file that is read, in any shard: none is ever written to.

    passed_over: as `plan` tells it.
    """

    model: Model
    jobs: list[Job]
    inputs: frozenset[Path]
    settings: Settings = Settings()
    journal: Journal | None = None
    facts: dict[Path, Facts] = field(default_factory=dict)  # by source, of those that have a readable head
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def _identities(self) -> set[tuple[int, int] | None]:
        return {identity(path) for path in self.inputs} - {None}

    def look(self) -> None:
        """Reads the heads of all inputs."""
        for job in self.jobs:
            try:
                self.facts[job.source] = photos.probe(job.source)
            except (PhotoError, OSError):
                continue  # told when its turn comes

    def require_disk(self) -> None:
        """Raises NoRoom if the results that are still to be made will hardly fit."""
        needed: dict[int, int] = {}
        folders: dict[int, Path] = {}
        for job in self.jobs:
            kind, facts = photos.format_of(job.target), self.facts.get(job.source)
            if kind and facts and not self.finished(job):
                folder = nearest(job.target.parent)
                if not os.access(folder, os.W_OK):
                    continue  # told when its turn comes
                device = folder.stat().st_dev
                folders[device] = folder
                needed[device] = needed.get(device, 0) + resources.disk_for(facts, kind, self.model.scale)
        for device, amount in needed.items():
            free = resources.free_disk(folders[device])
            if amount > free:
                raise NoRoom(f"{folders[device]}: the results need about {shown(amount)}, {shown(free)} are free")

    def run(self, progress: Callable[[Job, float], None] | None = None) -> Iterator[Outcome]:
        """Does the jobs in order. progress: told the share of a job that is done. Raises NoRoom for a full disk."""
        for job in self.jobs:
            start = time.monotonic()
            try:
                if job.error:
                    raise job.error
                if self.finished(job):
                    yield Outcome(job, "skipped")
                    continue
                width, height = self._enlarge(job, progress)
            except (PhotoError, FileExistsError, MemoryError) as error:
                message = str(error)
                if isinstance(error, MemoryError):
                    message = f"{job.source}: not enough memory; pass --memory or a smaller --tile ({message})"
                yield Outcome(job, "failed", time.monotonic() - start, error=message)
            except OSError as error:
                if error.errno in FULL:
                    raise self._no_room(job, error) from error
                denied = error.errno in DENIED
                yield Outcome(job, "failed", time.monotonic() - start, error=_refusal(job, error), denied=denied)
            else:
                yield Outcome(job, "done", time.monotonic() - start, width, height)

    def finished(self, job: Job) -> bool:
        if not self.settings.resume or self.journal is None or not os.path.exists(job.source):
            return False
        return self.journal.finished(job.source, job.target)

    def _enlarge(self, job: Job, progress: Callable[[Job, float], None] | None) -> tuple[int, int]:
        replaces = self._check_target(job)
        told = None if progress is None else lambda share: progress(job, share)
        try:
            memory = self._memory_for_tiles(job)
            seen = state_of(job.source)
            photo = photos.read(job.source)
            if self.settings.strip:
                photo = Photo(photo.pixels)
            photos.check_fits(job.target, photo, self.model.scale)
            result = self.model.upscale(photo.pixels, self.settings.depth, self.settings.tile, memory, told)
        except TooLittleMemory as error:
            raise self._too_little(job, error.lacking) from None
        if self.settings.check and (wrong := photos.mismatch(photo.pixels, result, self.model.scale)):
            raise PhotoError(f"{job.source}: {wrong}; nothing was written; if it is meant so, pass --no-check")
        self._write(job, Photo(result, photo.metadata), seen, new=not replaces)
        return result.shape[1], result.shape[0]

    def _check_target(self, job: Job) -> bool:
        """Whether the result may replace what is in its place by then."""
        target = job.target
        if len(os.fsencode(target.name)) > NAME_BYTES >= len(os.fsencode(job.source.name)):
            raise PhotoError(
                f"{job.source}: the result's name has more than {NAME_BYTES} bytes; pass a shorter --template"
            )
        if job.root and _leads_out(target.parent, job.root):
            raise PhotoError(
                f"{job.source}: {target.parent} is a link that leads out of {job.root}; nothing was written"
            )
        if not os.path.lexists(target):
            return self.settings.force
        if identity(target) in self._identities:
            raise FileExistsError(f"{job.source}: not written over the input {target}; choose another -o")
        known = self.journal is not None and self.journal.ours(target)
        if not (known and self.settings.resume) and not self.settings.force:
            raise _exists(job, "--resume to pass over what is done, or " if known else "")
        return True

    def _memory_for_tiles(self, job: Job) -> int | None:
        """Bytes for the tiles, None if ample. Raises TooLittleMemory, before the pixels are read."""
        facts = self.facts.get(job.source)
        limit = resources.free_memory() if self.settings.memory is None else self.settings.memory
        if facts is None or limit is None:
            return None
        left = limit - resources.memory_for(facts, self.model.scale, photos.format_of(job.target))
        if self.settings.memory is None and left >= resources.TILE_BYTES:
            return None
        shape = (facts.height, facts.width, facts.channels)
        self.model.tile_within(left, shape, facts.bits // 8, self.settings.depth)
        return left

    def _too_little(self, job: Job, lacking: int) -> PhotoError:
        if self.settings.memory is not None:
            wanted = (self.settings.memory + lacking) // resources.MIB + 1
            return PhotoError(f"{job.source}: got --memory {shown(self.settings.memory)}, wanted {wanted} MiB")
        return PhotoError(f"{job.source}: needs {shown(lacking)} more memory than is free")

    def _write(self, job: Job, result: Photo, seen: dict[str, int], *, new: bool) -> None:
        beside = name_beside(job.target)
        try:
            if self.journal:
                self.journal.begin(job.target, beside)
            photos.write(job.target, result, quality=self.settings.quality, beside=beside, new=new)
        except FileExistsError as error:
            if self.journal:
                self.journal.leave(job.target)
            raise _exists(job) from error
        except OSError as error:
            if error.errno in FULL:
                raise
            raise NotWritten(error.errno, _reason(error)) from error
        if self.journal:
            self.journal.end(seen, job.target)

    def _no_room(self, job: Job, error: OSError) -> NoRoom:
        kind, facts = photos.format_of(job.target), self.facts.get(job.source)
        needed = (
            f"; it needs about {shown(resources.disk_for(facts, kind, self.model.scale))}" if kind and facts else ""
        )
        return NoRoom(f"{job.source}: {_reason(error)}: {job.target}{needed}; make room, or choose another -o")


def _exists(job: Job, goes_on: str = "") -> FileExistsError:
    return FileExistsError(f"{job.source}: {job.target} exists; pass {goes_on}--force to overwrite it")


def _leads_out(folder: Path, root: Path) -> bool:
    try:
        return not folder.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # a link to itself, before Python 3.13
        return True


def _refusal(job: Job, error: OSError) -> str:
    """One line, with the source."""
    if isinstance(error, NotWritten):
        return f"{job.source}: cannot write {job.target}: {_reason(error)}; choose another -o"
    return f"{job.source}: {_reason(error)}"


def _reason(error: OSError) -> str:
    """Without number and path."""
    return error.strerror or str(error)
