"""What commands tell while they run: a live bar for people, JSON lines for programs."""

import json
import sys
from typing import Any

import rich.console
from rich.progress import Progress, ProgressColumn

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}  # for `Console.print` of file names


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Without this, rich ends the program."""
        raise BrokenPipeError


def bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar on stderr if that is a terminal; a stdout that leads elsewhere keeps its lines."""
    shown = sys.stderr.isatty()
    return Progress(*columns, console=console, disable=not shown, transient=True, redirect_stdout=sys.stdout.isatty())


def print_event(event: str, facts: dict[str, Any]) -> None:
    """One object on a line of stdout, at once."""
    print(json.dumps({"event": event} | facts), flush=True)
