"""Opening what a photograph is read from: a pipe or a device could be waited for without end."""

import os
import stat
from typing import BinaryIO

from quantsr.photos.photo import PhotoError

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # Windows has no pipes in folders


def kind_of(mode: int) -> str:
    """What `st_mode` tells that there is; "device" for all that is seldom."""
    return KINDS.get(stat.S_IFMT(mode), "device")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file, or a link to one, for reading. Raises PhotoError for what is neither file nor folder; OSError."""
    _require_file(path, os.stat(path))
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | AT_ONCE))
    try:
        _require_file(path, os.fstat(file.fileno()))  # it may have been exchanged meanwhile
    except PhotoError:
        file.close()
        raise
    return file


def _require_file(path: str | os.PathLike[str], facts: os.stat_result) -> None:
    kind = kind_of(facts.st_mode)
    if kind not in ("file", "folder"):  # of a folder, opening tells
        raise PhotoError(f"{os.fspath(path)}: is a {kind}, wanted a file")
