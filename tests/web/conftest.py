"""A server on a port of its own, as a user starts it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[str]"

    def peak(self) -> int:
        """The most memory that was in use so far, in bytes."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


@pytest.fixture
def server() -> Iterator[Server]:
    command = [sys.executable, "-m", "quantsr", "serve", "--port", "0", "--max-megabytes", "4", "--threads", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process.stdout.readline().split()[0], process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
