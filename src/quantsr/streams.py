"""What the program tells, where the terminal or whoever reads it cannot take all of it."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def escape_what_cannot_be_shown() -> None:
    """Characters that the terminal's encoding lacks are told as escapes, rather than end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: os.PathLike[str] | str) -> str:
    """A name or a sentence fit for a terminal or a log: undecodable bytes and control characters as escapes."""
    letters = os.fspath(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in letters)


def flush() -> None:
    """Tells what is left, while a closed pipe or a full disk can still be caught."""
    if sys.stdout is not None:
        sys.stdout.flush()


@contextmanager
def heard_or_not() -> Iterator[None]:
    """Goes on where nobody reads any more what is told within."""
    try:
        yield
    except BrokenPipeError:
        if not silence_closed():
            raise


def silence_closed() -> bool:
    """Whether a reader of stdout or stderr went away; what is told there from now on goes nowhere."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and _is_closed(stream):
            _silence(stream)
            closed = True
    return closed


def silence_full() -> None:
    """Drops what a full disk does not take of stdout, which would end the program once more at its exit."""
    try:
        flush()
    except OSError:
        _silence(sys.stdout)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_closed(stream: TextIO) -> bool:
    """Asks the system, as a second write might not fail: without a buffer, nothing is left to be written."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError):  # Windows has no poll; a stream in memory is no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
