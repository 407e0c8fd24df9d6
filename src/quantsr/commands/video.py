"""Upscale a video.

OUT is a .mkv, .webm or .mp4; without it NAME_x4.mp4 and so on beside INPUT, .mkv if INPUT is none of them. Frames keep
their times, also where these are not even; sound, subtitles, chapters and attachments are copied as they are. No file
is overwritten without --force. A run that was stopped goes on with --resume. Needs the extra `video`.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantsr.batch.plan import TEMPLATE
from quantsr.commands.common import (
    INPUT_OPTION,
    NONE_DONE,
    Failure,
    add_network,
    extra_needed,
    load_model,
    model_hash,
    number,
    place,
    terminated_as_interrupted,
)
from quantsr.files import require_folder
from quantsr.model import Model

if TYPE_CHECKING:
    from quantsr.video.encode import Target
    from quantsr.video.job import Job
    from quantsr.video.plan import Plan
    from quantsr.video.run import Film
    from quantsr.video.tell import Teller

SUFFIXES = (".mkv", ".mp4", ".webm")
CODECS = ("av1", "ffv1", "vp9")
DROP = ("alpha", "aspect", "attachments", "audio", "covers", "data", "subtitles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("input", nargs="?", type=place, metavar="INPUT", help="a video file")
    source.add_argument("-i", "--input", type=place, dest="option", metavar="INPUT", help=INPUT_OPTION)
    parser.add_argument(
        "-o", "--output", type=_target, metavar="OUT", help=f"{', '.join(SUFFIXES)}; default: beside INPUT"
    )
    add_network(parser)
    parser.add_argument("--codec", choices=CODECS, default="av1", help="default: av1; ffv1 loses nothing, and is large")
    parser.add_argument(
        "--crf", type=number(0, 63), metavar="N", help="of av1 and vp9: 0 is best, 63 worst; default: 24"
    )
    parser.add_argument(
        "--drop", type=_kinds, default=frozenset(), metavar="KINDS", help=f"leave out, of {','.join(DROP)}"
    )
    parser.add_argument(
        "--accept-damage", action="store_true", help="pass over what cannot be decoded, rather than refuse the file"
    )
    parser.add_argument(
        "--segment", type=number(1), default=120, metavar="N", help="frames that a stop may cost; default: %(default)s"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT, never the input")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run was stopped")
    parser.add_argument("--no-check", action="store_true", help="do not compare frames with those of the input")
    parser.add_argument("--json", action="store_true", help="tell the progress as JSON lines on stdout")


def run(args: argparse.Namespace) -> int:
    with extra_needed("enlarging films", "video", "av"):
        from quantsr.video.clip import VideoError
    try:
        with terminated_as_interrupted():
            _run(args)
    except VideoError as error:
        raise Failure(error, NONE_DONE) from error
    except MemoryError as error:
        raise Failure(f"not enough memory; pass --memory or a smaller --tile ({error})", NONE_DONE) from error
    return 0


def _run(args: argparse.Namespace) -> None:
    from quantsr.video import clip
    from quantsr.video.plan import Plan
    from quantsr.video.tell import ForPeople, JsonLines

    model, _ = load_model(args)
    source = args.input or args.option
    output = args.output or source.parent / _name(source, model.scale, args.codec)
    require_folder(output.parent)
    plan = Plan(source, output, clip.probe(source), model.scale, args.drop)
    teller: Teller = JsonLines(plan) if args.json else ForPeople(plan)
    state, told = "interrupted", ""
    try:
        _enlarge(args, model, plan, teller)
        state = "complete"
    except (clip.VideoError, OSError, MemoryError) as error:
        state, told = "failed", str(error)
        raise
    finally:
        teller.end(state, told)


def _enlarge(args: argparse.Namespace, model: Model, plan: "Plan", teller: "Teller") -> None:
    from quantsr.engine import usable_cpus
    from quantsr.video import assemble, clip, verify
    from quantsr.video.encode import Target
    from quantsr.video.job import Job
    from quantsr.video.plan import ASPECTS
    from quantsr.video.run import Film, Settings

    head = plan.head
    if head.colour.alpha and "alpha" not in plan.drop:
        raise clip.VideoError(f"{plan.source}: frames are transparent in parts, which is not kept; pass --drop alpha")
    if head.aspect not in (None, 1) and plan.suffix not in ASPECTS and "aspect" not in plan.drop:
        shown = f"{head.aspect.numerator}:{head.aspect.denominator}"
        raise clip.VideoError(
            f"{plan.path}: {plan.suffix} cannot be told of pixels of {shown}; choose .mp4, or --drop aspect"
        )
    if plan.path.exists() and plan.path.samefile(plan.source):
        raise clip.VideoError(f"{plan.path} is the input; choose another -o")
    if plan.path.is_dir():
        raise clip.VideoError(f"{plan.path} is a folder; choose another -o")
    settings = Settings(args.depth, args.tile, args.memory, not args.no_check, args.accept_damage, args.segment)
    threads = args.threads or usable_cpus()
    target = Target.of(head, model.scale, args.codec, args.crf, args.segment, threads)
    assemble.check_fits(plan, target)
    job = Job(plan.path, _facts(args, plan, target), resume=args.resume, force=args.force)
    try:
        if not job.made and not len(job.times):
            times = clip.scan(plan.source, head, tolerant=args.accept_damage, told=teller.looking)
            if job.found:
                verify.check_result(plan, target, times)
                job.times, job.made = times, True
            else:
                job.begin(times)
        if job.made:
            teller.already(len(job.times), _told(plan, target, exact=assemble.keeps_times(plan, job.times)))
        else:
            film = Film(model, plan, target, job.times, settings)
            exact = assemble.keeps_times(plan, job.times)
            _begin(film, job, exact, teller)
            film.run(job, teller.progress)
    except BaseException:
        job.leave()
        raise
    job.clear()


def _begin(film: "Film", job: "Job", exact: bool, teller: "Teller") -> None:
    plan, target = film.plan, film.target
    done = min(len(job.times), job.finished() * film.settings.segment)
    teller.begin(len(job.times), done, _told(plan, target, exact=exact))
    if not exact:
        teller.note(f"{plan.suffix} holds milliseconds: frames move by half of one at most; .mp4 keeps their times")
    if target.format_loses(plan.head):
        teller.note(f"{plan.head.format} becomes {target.format}; --codec ffv1 keeps it")


def _told(plan: "Plan", target: "Target", *, exact: bool) -> dict[str, Any]:
    """What is told of the result. exact: whether it holds the frames' times as they are."""
    return {
        "width": target.width,
        "height": target.height,
        "codec": target.name,
        "pixels": target.format,
        "exact_times": exact,
        "copied": [dataclasses.asdict(extra) for extra in plan.extras],
    }


def _facts(args: argparse.Namespace, plan: "Plan", target: "Target") -> dict[str, Any]:
    """What decides the frames of the result, so that only what goes together is put together."""
    import av

    source = plan.source.stat()
    return {
        "source": [source.st_size, source.st_mtime_ns],
        "--model": model_hash(args),
        "--depth": args.depth,
        "--fast": args.fast,
        "--codec": [target.name, target.format],
        "--crf": target.crf,
        "--segment": args.segment,
        "--accept-damage": args.accept_damage,
        "version of PyAV": av.__version__,
    } | ({"--tta": True} if args.tta else {})  # not told where it is off: films begun earlier have no word of it


def _name(source: Path, scale: int, codec: str) -> str:
    """Of the result beside a source; Matroska where its own container is none of ours, or cannot hold FFV1."""
    suffix = source.suffix if source.suffix.lower() in SUFFIXES and codec != "ffv1" else ".mkv"
    return TEMPLATE.format(stem=source.stem, scale=scale, suffix=suffix)


def _target(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"got suffix {path.suffix!r}, wanted one of {', '.join(SUFFIXES)}")
    return path


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    if unknown := sorted(kinds - set(DROP)):
        raise argparse.ArgumentTypeError(f"got {unknown[0]!r}, wanted of {','.join(DROP)}")
    return kinds
