"""What the commands share: failures with an exit code, and common options."""

import argparse
import errno
import hashlib
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from quantsr import zoo
from quantsr.engine import MAX_THREADS
from quantsr.files import holds_json, identity, require_folder
from quantsr.model import Model, load
from quantsr.packing.program import DEPTHS, UPSCALES, PackedModelError
from quantsr.zoo import UnknownModelError

USAGE, SOME_FAILED, NONE_DONE, NO_ROOM = 2, 3, 4, 5
INPUT_OPTION = "INPUT as an option, as other upscalers have it"


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


def how_to_install(extra: str) -> str:
    """Of this project's folder: there is no package of this name to be had by name."""
    return f'pip install ".[{extra}]" in the source folder of quantsr'


@contextmanager
def extra_needed(doing: str, extra: str, *packages: str) -> Iterator[None]:
    """Around imports that need an extra: where one of its packages is missing, one line says what to install."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise Failure(f"{doing} needs the extra {extra} ({error}): {how_to_install(extra)}", USAGE) from error


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("-n", "--model", required=required, help="a bundled model's name, or a packed file")


def add_network(parser: argparse.ArgumentParser) -> Any:
    """What `load_model` reads, and how the network is run. Returns the group of --depth, for what excludes it."""
    parser.add_argument("-s", "--scale", type=int, choices=UPSCALES, help="default: 4, or what MODEL does")
    add_model(parser, required=False)
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--depth", choices=DEPTHS, default="full", help="fewer blocks: faster, a little less sharp")
    parser.add_argument(
        "--fast",
        action="store_true",
        help="8-bit arithmetic in the last layers too: faster on CPUs with AMX, up to 0.03 dB less",
    )
    parser.add_argument(
        "-x", "--tta", action="store_true", help="mean of 8 turned views: 8 times the time, a little nearer the truth"
    )
    parser.add_argument("-t", "--tile", type=number(1), metavar="N", help="tile side in input pixels; same result")
    parser.add_argument("--memory", type=size_in_bytes, metavar="SIZE", help="stay below, such as 1GiB; same result")
    add_threads(parser)
    return depth


def load_model(args: argparse.Namespace) -> tuple[Model, str]:
    """The model that the options of `add_network` ask for, and its name; all errors are the user's."""
    with usage_errors(PackedModelError):
        name = args.model or zoo.default_name(args.scale or zoo.DEFAULT_SCALE)
        model = load(name, args.threads, args.fast, args.tta)
    if args.scale not in (None, model.scale):
        raise Failure(f"model {args.model} does x{model.scale}, not x{args.scale}", USAGE)
    with usage_errors(ValueError):
        model.engine(args.depth)
    args.model = name
    return model, Path(name).stem


def model_hash(args: argparse.Namespace) -> str:
    """SHA-256 of the file of the loaded model."""
    return hashlib.sha256(zoo.find(args.model).read_bytes()).hexdigest()


def add_output(parser: argparse.ArgumentParser, *, default: str = "") -> None:
    """-o and --force, for `new_file`. default: what --help says of it; without, -o is required."""
    help = f"default: {default}" if default else None
    parser.add_argument("-o", "--output", type=place, required=not default, metavar="FILE", help=help)
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def new_file(path: Path, force: bool, *read: Path) -> Path:
    """A path to write to. Raises Failure if the command reads it, or if it is there and may not be replaced."""
    if path.exists() and identity(path) in map(identity, read):
        raise Failure(f"-o: got {path}, which is read; wanted another file", USAGE)
    if path.is_dir():
        raise Failure(f"-o: got the folder {path}, wanted a file", USAGE)
    if path.exists() and not force:
        raise Failure(f"{path} exists; pass --force to overwrite it, or choose another -o", USAGE)
    return path


def results_file(path: Path, *keys: str) -> None:
    """Before the work: raises Failure, or OSError, if results written to --json FILE would harm another file.

    keys: of the JSON object that may be replaced, as earlier results.
    """
    if not os.access(require_folder(path.parent), os.W_OK):
        raise PermissionError(errno.EACCES, "--json: no permission to write", str(path))
    if os.path.lexists(path) and not holds_json(path, *keys):
        raise Failure(f"--json: {path} exists and holds no earlier results; choose another FILE", USAGE)


class terminated_as_interrupted:
    """SIGTERM ends a run as Ctrl-C does."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._old = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._old)

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt


def place(text: str) -> Path:
    """argparse type: a path.

    A single dash means a pipe to other programs; here it would become a file's name. An empty name, as of a variable
    that is not set, would be the working folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("got an empty name, wanted a file or folder; the working folder is .")
    if text == "-":
        raise argparse.ArgumentTypeError("got -, wanted a name: nothing is read from stdin or written to stdout")
    return Path(text)


def number(least: float, most: float = math.inf, kind: type = int) -> Callable[[str], Any]:
    """argparse type: a finite number of this kind, `least` to `most`."""
    wanted = "a whole number" if kind is int else "a number"
    wanted += f", {least:g} or more" if most == math.inf else f" from {least:g} to {most:g}"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or value == math.inf:  # NaN is in no range
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
        return value

    return parse


def size_in_bytes(text: str) -> int:
    """argparse type: an amount of memory such as 800MB, 1GiB or 1.5GiB."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d*)?|\.\d+)\s*([KMGT]?)(i?)B?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted an amount such as 800MB or 1GiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=number(1, MAX_THREADS), metavar="N", help="default: all cores")
