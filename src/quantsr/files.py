"""Writing files so that a kill at any moment leaves either the old file or the new one, never a part."""

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, BinaryIO

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def write_atomically(
    path: str | os.PathLike[str],
    data: bytes | memoryview | Callable[[BinaryIO], object],
    beside: Path | None = None,
    *,
    new: bool = False,
) -> None:
    """Writes beside `path`, flushes to disk, renames over it. Raises OSError; `path` then holds what it held before.

    A folder that is missing is made: what was computed for minutes is not lost for want of one.
    data: the content, or what writes it into an open file. beside: where it is written first, see `name_beside`.
    new: raises FileExistsError if something is at `path` by then.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        require_folder(path.parent)  # tells what lies there
        raise
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory, wanted a file", str(path))
    beside = beside or name_beside(path)
    try:
        with open(beside, "x+b") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (_rename_to_new if new else os.replace)(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _rename_to_new(old: Path, new: Path) -> None:
    """A link fails where something is, a rename replaces it. Where there are no links, as on FAT, a look has to do."""
    try:
        os.link(old, new)
    except OSError as error:
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "File exists", str(new)) from error
        os.replace(old, new)
    else:
        old.unlink()


def require_folder(folder: Path) -> Path:
    """Where a folder is, or else will be made: the lowest one there is.

    Raises NotADirectoryError if something else lies there, and OSError, for a name that is too long too.
    """
    for place in (folder, *folder.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not place.is_dir():
            kind = "a file" if place.is_file() else "no folder"
            raise NotADirectoryError(f"{place} is {kind}, wanted a folder")
        return place
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))  # the working folder is gone


def nearest(folder: Path) -> Path:
    """The folder itself, absolute, or the lowest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def holds_json(path: Path, *keys: str) -> bool:
    """Whether it is a file with a JSON object that has these keys; an empty file is as good as one."""
    if not path.is_file():
        return False
    text = path.read_bytes()
    try:
        found = json.loads(text) if text else dict.fromkeys(keys)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= {*keys}


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file apart under whatever name, also where a file system ignores case; None if it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def listing(folder: Path, suffixes: Collection[str]) -> list[tuple[str, int]]:
    """Name and bytes of every file directly in the folder with one of the suffixes: tells its states apart.

    suffixes: such as ".png", which takes "A.PNG" too. Nothing for a folder that is not there; what has the name but is
    no file, such as a link to nowhere, has 0 bytes.
    """
    files = (path for path in folder.glob("*") if path.suffix.lower() in suffixes)
    return sorted((path.name, path.stat().st_size if path.is_file() else 0) for path in files)


def name_beside(path: Path) -> Path:
    """A new name in the same folder for a temporary file."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")  # short: the final name may be of the greatest length


def is_temporary(name: str) -> bool:
    """Whether `name_beside` gives such names."""
    return bool(_TEMPORARY.fullmatch(name))


def remove_leftovers(folder: Path) -> None:
    """Temporary files of `write_atomically` that a kill left. The caller must be the only one that writes there."""
    for path in folder.glob(".*.tmp"):
        if is_temporary(path.name):
            path.unlink(missing_ok=True)


def lock(file: IO[bytes] | IO[str]) -> bool:
    """Takes the file for this process until it is closed; False if another has it.

    Without such locks (Windows) it is always True: two runs at once are not caught there.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, on the systems that can; the file is whole either way."""
    with contextlib.suppress(AttributeError, OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
