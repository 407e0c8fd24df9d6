"""What commands tell: a live bar and layers in a line for people, JSON lines for programs."""

import itertools
import json
import re
import sys
import time
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.file_proxy import FileProxy
from rich.progress import Progress, ProgressColumn

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}  # for `Console.print` of file names
HEARTBEAT_SECONDS = 60


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Without this, rich ends the program."""
        raise BrokenPipeError


def bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar on stderr if that is a terminal; a stdout that leads elsewhere keeps its lines."""
    shown = sys.stderr.isatty()
    return Progress(*columns, console=console, disable=not shown, transient=True, redirect_stdout=sys.stdout.isatty())


class Heartbeat:
    """Where stderr is no terminal and has no bar: how far the work is, in a line a minute."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()

    def tell(self, line: str) -> None:
        if not sys.stderr.isatty() and time.monotonic() >= self._last + HEARTBEAT_SECONDS:
            self._last = time.monotonic()
            self._console.print(line, **PLAIN)


def print_line(console: Console, line: str) -> None:
    """On stdout, file names whole: while a bar has taken over stdout, its console would break the line at its width."""
    if isinstance(sys.stdout, FileProxy):
        console.print(line, **PLAIN)
    else:
        print(line, flush=True)


def print_event(event: str, facts: dict[str, Any]) -> None:
    """One object on a line of stdout, at once."""
    print(json.dumps({"event": event} | facts), flush=True)


def shown_together(names: Iterable[str]) -> str:
    """Names of layers in a line: those that differ in whole ranges of indices are one, `body.0-15.conv1`."""
    indices: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        place = r"(?<=\.)\d+(?=\.)"
        indices.setdefault(re.sub(place, "{}", name), []).append(tuple(map(int, re.findall(place, name))))
    return ", ".join(text for pattern, found in indices.items() for text in _ranges(pattern, found))


def _ranges(pattern: str, found: list[tuple[int, ...]]) -> list[str]:
    spans = [range(min(column), max(column) + 1) for column in zip(*found, strict=True)]
    if set(itertools.product(*spans)) != set(found):
        return [pattern.format(*index) for index in found]
    return [pattern.format(*(f"{span[0]}-{span[-1]}" if len(span) > 1 else span[0] for span in spans))]
