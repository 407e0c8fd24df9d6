"""Upscale photos.

INPUT is an image file, or with -o a folder. OUT is a folder (made if needed; results are named NAME_x4.png and so on)
or, for one input, an image file. 16 bits, gray, transparency, colour profile, EXIF, XMP, IPTC, texts and resolution are
kept, the orientation is applied. No file is overwritten without --force, and no input ever. A run over a folder that
was stopped goes on with --resume.
"""

import argparse
import dataclasses
import os
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from quantsr import photos
from quantsr.batch.journal import Journal, JournalInUse, deciding
from quantsr.batch.plan import FIELDS, RESULT, TEMPLATE, Job, Naming, PlanError, plan, shard_of, without_results
from quantsr.batch.run import DENIED, FULL, Batch, NoRoom, Outcome, Settings
from quantsr.batch.tell import ForPeople, JsonLines, Unbothered, check_report, write_report
from quantsr.batch.within import choose_depth
from quantsr.commands.common import (
    INPUT_OPTION,
    NO_ROOM,
    NONE_DONE,
    SOME_FAILED,
    USAGE,
    Failure,
    add_network,
    load_model,
    model_hash,
    number,
    place,
    terminated_as_interrupted,
    usage_errors,
)
from quantsr.photos import Facts, Format
from quantsr.streams import heard_or_not, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", type=place, metavar="INPUT", help="an image file, or a folder of them")
    parser.add_argument(
        "-i", "--input", nargs="+", action="extend", type=place, default=[], dest="more", metavar="INPUT",
        help=INPUT_OPTION,
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=place, metavar="OUT", help="default: beside each input")
    parser.add_argument("-r", "--recursive", action="store_true", help="a folder's folders too, mirrored in OUT")
    add_network(parser).add_argument(
        "--within",
        type=number(1e-3, kind=float),
        metavar="S",
        help="the deepest that should do all files in S seconds, as a short measurement tells",
    )
    _add_files(parser)
    parser.add_argument("--no-check", action="store_true", help="do not compare results with their inputs")
    parser.add_argument("--json", action="store_true", help="tell the progress as JSON lines on stdout")
    parser.add_argument("--report", type=place, metavar="FILE", help="write what became of each file there, as JSON")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", type=_format, choices=photos.FORMATS, help="default: the input's, or png")
    parser.add_argument("--quality", type=number(1, 100), metavar="N", help="of JPEG, WebP (default: 95), AVIF (85)")
    parser.add_argument(
        "--strip", action="store_true", help="leave out EXIF, XMP, IPTC, texts, colour profile and resolution"
    )
    fields = ", ".join(f"{{{field}}}" for field in FIELDS)
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--template", default=TEMPLATE, metavar="T", help=f"names of the results; default: {TEMPLATE}; of {fields}"
    )
    names.add_argument(
        "--suffix", type=_template, dest="template", metavar="TEXT", help="names end in _TEXT instead of _x4"
    )
    parser.add_argument("--force", action="store_true", help="overwrite existing results, never an input")
    parser.add_argument("--resume", action="store_true", help="pass over what an earlier run into OUT has finished")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="do the I-th of N parts of the files"
    )


def run(args: argparse.Namespace) -> int:
    warnings.filterwarnings("ignore", module="PIL")  # what matters of a file is told as its error
    batch, depth = _prepared(args)
    teller = Unbothered(JsonLines() if args.json else ForPeople())
    outcomes: list[Outcome] = []
    state, failure = "interrupted", None
    teller.begin(batch)
    try:
        with terminated_as_interrupted():
            for outcome in batch.run(teller.progress):
                outcomes.append(outcome)
                teller.file(outcome)
        state = "complete"
    except NoRoom as error:
        state, failure = "no room", Failure(error, NO_ROOM)
    finally:
        teller.end(outcomes, state)
        if batch.journal:
            batch.journal.close()
        if args.report:
            write_report(args.report, batch, outcomes, state, _record(args, batch, depth))
    if failure:
        raise failure
    return _exit_code(outcomes)


def _prepared(args: argparse.Namespace) -> tuple[Batch, str]:
    """All that can fail before work starts; and the depth as the user told it."""
    inputs = [*args.inputs, *args.more]
    if not inputs:
        raise Failure("got no INPUT, wanted an image file or a folder of them", USAGE)
    model, name = load_model(args)
    depth = args.depth if args.within is None else f"within {args.within:g} s"
    with usage_errors(PlanError, JournalInUse):
        naming = Naming(model.scale, name, args.depth if args.within is None else "within", args.template, args.format)
        passed_over: Counter[str] = Counter()
        found = plan(inputs, args.output, naming, recursive=args.recursive, passed_over=passed_over)
        every = without_results(found, passed_over)
        _tell_of_the_rest(args, inputs[0], bool(every), passed_over)
        _tell_of_quality(args, every)
        jobs = [job for job in every if shard_of(job, args.shard[1]) == args.shard[0]]
        many = len(inputs) > 1 or any(os.path.isdir(path) for path in inputs)
        into_folder = bool(every) and every[0].root is not None
        if args.resume and every and not into_folder:
            raise Failure("--resume needs a folder for the results, as -o OUT", USAGE)
        settings = _settings(args)
        if args.report:
            with usage_errors(ValueError):
                check_report(args.report, every, force=args.force)
        journal = None
        if into_folder and (many or args.resume):
            journal = _journal(args, deciding(model, model_hash(args), depth, args.quality, args.strip))
    batch = Batch(model, jobs, frozenset(job.source for job in found), settings, journal, passed_over=passed_over)
    batch.look()
    if args.within is not None:
        chosen, estimate = choose_depth(model, _left(batch), args.within, args.quality, args.tile)
        batch.settings = dataclasses.replace(settings, depth=chosen)
        if not args.json:
            late = f"does not fit in {args.within:g} s; " if estimate > args.within else ""
            with heard_or_not():
                print(f"{late}depth {chosen}: about {estimate:.2g} s", flush=True)
    try:
        batch.require_disk()
    except NoRoom as error:
        raise Failure(error, NO_ROOM) from error
    if journal and args.resume:
        journal.remove_leftovers()
    return batch, depth


def _tell_of_the_rest(args: argparse.Namespace, first: Path, found: bool, passed_over: Counter[str]) -> None:
    """One line of what is not taken for a photograph to enlarge, or of none at all."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(passed_over.items()))
    parts = [] if found else [f"no photographs in {printable(first)}"]
    parts += [f"passed over: {kinds}"] if passed_over else []
    parts += [f"wanted plain files of {', '.join(photos.READABLE)}"] if passed_over.keys() - {RESULT} else []
    parts += [] if found or args.recursive else ["-r looks in its folders too"]
    if parts:
        with heard_or_not():
            print(f"quantsr: {'; '.join(parts)}", file=sys.stderr)


def _tell_of_quality(args: argparse.Namespace, jobs: list[Job]) -> None:
    """One line if --quality is given for nothing."""
    kinds = [photos.format_of(job.target) for job in jobs]
    if args.quality is not None and kinds and not any(kind and kind.quality for kind in kinds):
        lossy = ", ".join(kind.name for kind in photos.FORMATS.values() if kind.quality)
        with heard_or_not():
            print(f"quantsr: --quality changes nothing: no result is one of {lossy}", file=sys.stderr)


def _journal(args: argparse.Namespace, settings: dict[str, Any]) -> Journal:
    try:
        return Journal(args.output, settings, args.shard)
    except OSError as error:
        if error.errno not in (*FULL, *DENIED):
            raise
        raise Failure(f"cannot write into {args.output}: {error.strerror}; choose another -o", NO_ROOM) from error


def _left(batch: Batch) -> list[tuple[Facts, Format]]:
    """What is still to be done, with the format of each result."""
    jobs = [job for job in batch.jobs if job.source in batch.facts and not batch.finished(job)]
    kinds = [photos.format_of(job.target) for job in jobs]
    return [(batch.facts[job.source], kind) for job, kind in zip(jobs, kinds, strict=True) if kind]


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        depth=args.depth,
        tile=args.tile,
        memory=args.memory,
        quality=args.quality,
        strip=args.strip,
        check=not args.no_check,
        force=args.force,
        resume=args.resume,
    )


def _record(args: argparse.Namespace, batch: Batch, depth: str) -> dict[str, Any]:
    """The settings, for the report."""
    network = {"model": args.model, "scale": batch.model.scale, "fast": args.fast, "tta": args.tta}
    return network | {"format": args.format} | dataclasses.asdict(batch.settings) | {"asked_depth": depth}


def _exit_code(outcomes: list[Outcome]) -> int:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        return 0
    if len(failed) < len(outcomes):
        return SOME_FAILED
    return NO_ROOM if all(outcome.denied for outcome in failed) else NONE_DONE


def _format(text: str) -> str:
    return {"jpeg": "jpg", "tif": "tiff"}.get(text.lower(), text.lower())


def _template(text: str) -> str:
    return f"{{stem}}_{text.replace('{', '{{').replace('}', '}}')}{{suffix}}"


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted I/N with I from 1 to N")
    return int(match[1]), int(match[2])
