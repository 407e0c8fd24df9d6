"""The command line: one dict of subcommands.

Exit codes: 0 all done, 1 a check failed (`evaluate --zoo`, `export`), training diverged, or an unexpected error,
2 usage, 3 some files failed, 4 nothing could be done, 5 no space or no permission, 130 interrupted, 141 nobody reads
any more what is told.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quantsr.commands import bench, compare, evaluate, export, import_, info, models, pack, serve, train, upscale, video
from quantsr.commands.common import Failure
from quantsr.streams import escape_what_cannot_be_shown, flush, printable, silence_closed, silence_full

NOT_HEARD = 128 + 13  # as a shell tells of a process that SIGPIPE ended
COMMANDS = {
    "upscale": upscale,
    "video": video,
    "models": models,
    "info": info,
    "evaluate": evaluate,
    "train": train,
    "import": import_,
    "pack": pack,
    "export": export,
    "compare": compare,
    "bench": bench,
    "serve": serve,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    escape_what_cannot_be_shown()
    try:
        try:
            return _run(_parsed(arguments))
        except SystemExit:  # after --help
            flush()
            raise
    except BrokenPipeError:
        if not silence_closed():
            raise
        return NOT_HEARD


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is not understood is told with the usage of the command, where argparse alone would show that of all.

    Inputs may stand on both sides of an option: argparse takes those of one side alone.
    """
    args, unknown = _parser().parse_known_args(arguments)
    if hasattr(args, "inputs") and all(word and not word.startswith("-") for word in unknown):
        args.inputs += map(Path, unknown)
    elif unknown:
        files = [word for word in unknown if word.startswith("-") and os.path.exists(word)]
        hint = "".join(f"; the file of that name is ./{name}" for name in files[:1])
        args.parser.error(f"unrecognized arguments: {printable(' '.join(unknown) + hint)}")
    return args


def _run(args: argparse.Namespace) -> int:
    try:
        code = int(args.run(args))
        flush()
        return code
    except Failure as failure:
        _tell(failure)
        return failure.code
    except KeyboardInterrupt as interrupt:
        _tell(": ".join(["interrupted", *map(str, interrupt.args)]))
        return 130
    except (NotADirectoryError, IsADirectoryError) as error:
        _tell(error)
        return 2
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            _tell(error)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        silence_full()
        _tell(error)
        return 5


def _tell(what: object) -> None:
    """One line, whatever the names in it hold."""
    print(f"quantsr: {printable(str(what))}", file=sys.stderr)


class _Paragraphs(argparse.HelpFormatter):
    """Descriptions keep their paragraphs."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Paragraphs, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quantsr", description="Super-resolution with 2 to 4 bit networks.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=command.__doc__, formatter_class=_Paragraphs)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, parser=sub)
    return parser


def _version() -> str:
    from quantsr import __version__

    return f"quantsr {__version__}"
