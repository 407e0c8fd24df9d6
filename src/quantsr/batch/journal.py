"""What was begun and finished in a folder of results, so that a run that was stopped, even by a kill, can go on.

One JSON object a line, appended: {"target", "state": "begun", "temporary"} before a result is written, and after its
rename {"target", "state": "done", "source_size", "source_mtime_ns", "settings", "size"}, the source as it was before it
was read; each with "time", in ns. A result is finished if its last line is "done", its file has that size, and input
and settings are the recorded ones. A result is ours, and may be replaced, if the journal knows it, other than by
{"target", "state": "done", "size": null}: there another's file appeared. A torn last line is passed over. Each shard
writes its own file and reads all; of a target that several files tell of, the latest line counts.

A folder of results may come from elsewhere, its journal too: a line that a run does not write, such as one that names
a place outside the folder, is passed over.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from time import time_ns
from typing import Any

from quantsr.files import is_temporary, lock
from quantsr.model import Model

NAME = ".quantsr-journal"


class JournalInUse(ValueError):
    """Another process writes this journal."""


def deciding(model: Model, sha256: str, depth: str, quality: int | None = None, strip: bool = False) -> dict[str, Any]:
    """The settings of a journal. sha256: of the model's file. depth: as it was asked for."""
    settings = {"model": sha256, "depth": depth, "fast": model.fast, "quality": quality, "strip": strip}
    # Told only where it is on: older journals have no word of it.
    return settings | ({"tta": True} if model.tta else {})


class Journal:
    """The journal of the results below `root`; the folder is made if needed. settings: what decides a result's bytes.

    Raises JournalInUse, or OSError.
    """

    def __init__(self, root: Path, settings: dict[str, Any], shard: tuple[int, int] = (1, 1)) -> None:
        self._root, self._settings = root, settings
        root.mkdir(parents=True, exist_ok=True)
        part = "" if shard[1] == 1 else f"-{shard[0]}-of-{shard[1]}"
        path = root / f"{NAME}{part}.jsonl"
        self._last: dict[str, dict[str, Any]] = {}  # by target
        self._mine: set[str] = set()
        times: dict[str, int] = {}
        for each in sorted(root.glob(f"{NAME}*.jsonl"), key=lambda found: (found == path, found)):
            for target, line in _read(each).items():
                time = line.pop("time", 0)  # older journals tell none; there this shard's own comes last
                if time >= times.get(target, 0):
                    times[target], self._last[target] = time, line
                if each == path:
                    self._mine.add(target)
        self._file = path.open("a+b")
        if not lock(self._file):
            raise JournalInUse(
                f"{path}: another run writes into this folder; wait for it, or divide the work by --shard"
            )
        self._file.seek(0, os.SEEK_END)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def close(self) -> None:
        self._file.close()

    def remove_leftovers(self) -> None:
        """Temporary files of results that this journal began and did not finish."""
        for target in self._mine:
            if self._last[target]["state"] == "begun":
                with suppress(OSError, ValueError):  # gone, or a name that the system does not take
                    (self._root / target).with_name(self._last[target]["temporary"]).unlink()

    def finished(self, source: Path, target: Path) -> bool:
        """Whether `target` was made from this `source` with these settings, and is there whole."""
        seen = state_of(source)
        return bool(seen) and self._last.get(self._key(target)) == self._done(seen, target)

    def ours(self, target: Path) -> bool:
        """Whether an existing `target` is a result that this journal knows."""
        last = self._last.get(self._key(target), {})
        return last.get("state") == "begun" or (bool(last) and last["size"] == _size(target))

    def begin(self, target: Path, temporary: Path) -> None:
        self._append({"target": self._key(target), "state": "begun", "temporary": temporary.name})

    def end(self, seen: dict[str, int], target: Path) -> None:
        """seen: the `state_of` the source before it was read, as it may have changed since."""
        self._append(self._done(seen, target))
        os.fsync(self._file.fileno())

    def leave(self, target: Path) -> None:
        """What lies there is another's."""
        self._append({"target": self._key(target), "state": "done", "size": None})

    def _key(self, target: Path) -> str:
        return target.relative_to(self._root).as_posix()

    def _done(self, seen: dict[str, int], target: Path) -> dict[str, Any]:
        return seen | {
            "target": self._key(target),
            "state": "done",
            "settings": self._settings,
            "size": _size(target),
        }

    def _append(self, line: dict[str, Any]) -> None:
        self._last[line["target"]] = line
        self._mine.add(line["target"])
        self._file.write(json.dumps(line | {"time": time_ns()}).encode() + b"\n")
        self._file.flush()


def state_of(source: Path) -> dict[str, int]:
    """What tells whether a source changes; nothing if it cannot be asked."""
    try:
        facts = source.stat()
    except OSError:
        return {}
    return {"source_size": facts.st_size, "source_mtime_ns": facts.st_mtime_ns}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return {line["target"]: line for line in _lines(path)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
            if _is_written_here(line):
                yield line
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn by a kill


def _is_written_here(line: dict[str, Any]) -> bool:
    place = PurePosixPath(line["target"])
    if not place.name or place.is_absolute() or ".." in place.parts:
        return False
    if not isinstance(line.get("time", 0), int):
        return False
    if line["state"] == "begun":
        return is_temporary(line["temporary"])
    return line["state"] == "done" and isinstance(line["size"], int | None)


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None
