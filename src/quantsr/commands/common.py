"""What the commands share: failures with an exit code, and common options."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

from quantsr.zoo import UnknownModelError

USAGE, SOME_FAILED, NONE_DONE, NO_ROOM = 2, 3, 4, 5


class Failure(Exception):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, message: object, code: int) -> None:
        super().__init__(str(message))
        self.code = code


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds (and unknown model names) are the user's: exit code 2."""
    users: tuple[type[Exception], ...] = (UnknownModelError, *kinds)
    try:
        yield
    except users as error:
        raise Failure(error, USAGE) from error


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("-n", "--model", required=required, help="a bundled model's name, or a packed file")


def positive(text: str) -> int:
    """argparse type: an integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 1 or more")
    return value


def size_in_bytes(text: str) -> int:
    """argparse type: an amount of memory such as 800MB, 1GiB or 1.5GiB."""
    match = re.fullmatch(r"([0-9.]+)\s*([kKMGT]?)(i?)B?", text)
    try:
        assert match is not None
        power = " KMGT".index(match[2].upper() or " ")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    except (AssertionError, ValueError):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted an amount such as 800MB or 1GiB") from None


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all cores")
