"""When a run has to stop before its last step, with a checkpoint."""

import math
import signal
import threading
import time
from types import FrameType

from quantsr.train.distributed import Workers

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """While it is entered, Ctrl-C and SIGTERM ask for a stop instead of ending the process; a second one ends it.

    minutes: until a stop is due by itself. workers: of several, all stop at the same step if one is asked; torchrun
    may pass a signal on to each more than once, so there a second one ends nothing.
    """

    def __init__(self, minutes: float | None, workers: Workers) -> None:
        self.asked = False
        self._deadline = math.inf if minutes is None else time.monotonic() + minutes * 60
        self._workers = workers

    def __enter__(self) -> "Stop":
        here = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._old = {number: signal.signal(number, self._ask) for number in here}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def due(self) -> bool:
        """Before every step, in all processes."""
        return self._workers.any(self.asked or time.monotonic() >= self._deadline)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self._workers.count == 1:
            raise KeyboardInterrupt
        self.asked = True
