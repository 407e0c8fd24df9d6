"""What a film tells while it runs: a bar for people, JSON lines for programs."""

import time
from typing import Any, Protocol

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from quantsr.streams import printable
from quantsr.terminal import PLAIN, Console, Heartbeat, bar, print_event
from quantsr.video.plan import Plan

ALREADY = "was done before, nothing is left to do; --force makes it again"


class Teller(Protocol):
    def looking(self, frames: int) -> None: ...
    def begin(self, frames: int, done: int, facts: dict[str, Any]) -> None: ...
    def already(self, frames: int, facts: dict[str, Any]) -> None: ...
    def progress(self, frames: float) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self, state: str, error: str) -> None: ...


class JsonLines:
    """One object a line on stdout: "begin", "progress", "note" and "end" under "event"."""

    def __init__(self, plan: Plan) -> None:
        self._names = {"source": str(plan.source), "target": str(plan.path)}
        self._start = time.monotonic()
        self._frames, self._at = 0, 0.0

    def looking(self, frames: int) -> None: ...

    def begin(self, frames: int, done: int, facts: dict[str, Any]) -> None:
        self._frames, self._at = frames, done
        print_event("begin", self._names | {"frames": frames, "done": done} | facts)

    def already(self, frames: int, facts: dict[str, Any]) -> None:
        self.begin(frames, frames, facts)
        self.note(ALREADY)

    def progress(self, frames: float) -> None:
        self._at = frames
        print_event("progress", {"frame": round(frames, 3), "share": round(frames / self._frames, 6)})

    def note(self, text: str) -> None:
        print_event("note", {"text": text})

    def end(self, state: str, error: str) -> None:
        facts: dict[str, Any] = {"state": state, "frames": self._frames, "done": int(self._at)}
        facts |= {"seconds": round(time.monotonic() - self._start, 3)} | ({"error": error} if error else {})
        print_event("end", self._names | facts)


class ForPeople:
    """On a terminal a bar with frames, frames per second and time left; at the end a line."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._start = plan, time.monotonic()
        self._console = Console(stderr=True)
        self._heartbeat = Heartbeat(self._console)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        self._bar = bar(self._console, *columns, TimeRemainingColumn())
        self._task = self._bar.add_task("looking", total=None, speed="")
        self._bar.start()
        self._frames, self._done, self._begun = 0, 0, self._start
        self._already = False

    def looking(self, frames: int) -> None:
        self._bar.update(self._task, description=f"looking: {frames} frames")

    def begin(self, frames: int, done: int, facts: dict[str, Any]) -> None:
        self._frames, self._done, self._begun = frames, done, time.monotonic()
        self._size = f"{facts['width']}x{facts['height']}"
        self._bar.update(self._task, total=frames, completed=done, description=f"{done}/{frames} frames")

    def already(self, frames: int, facts: dict[str, Any]) -> None:
        self.begin(frames, frames, facts)
        self._already = True

    def progress(self, frames: float) -> None:
        rate = (frames - self._done) / max(1e-9, time.monotonic() - self._begun)
        frames_told, speed = f"{int(frames)}/{self._frames} frames", f"{rate:.2f} frames/s"
        self._bar.update(self._task, completed=frames, description=frames_told, speed=speed)
        self._heartbeat.tell(f"{frames_told}, {speed}")

    def note(self, text: str) -> None:
        self._console.print(f"quantsr: {printable(text)}", **PLAIN)

    def end(self, state: str, error: str) -> None:
        self._bar.stop()
        if state == "complete":
            names = f"{printable(self._plan.source)} -> {printable(self._plan.path)}"
            took = ALREADY if self._already else f"{time.monotonic() - self._start:.1f} s"
            print(f"{names}  {self._size}  {self._frames} frames  {took}", flush=True)
        elif self._frames:
            self._console.print("the same command with --resume goes on from here", **PLAIN)
