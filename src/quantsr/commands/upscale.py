"""Upscale photos.

INPUT is an image file, or with -o a folder. OUT is a folder (made if needed; results are named NAME_x4.png and so on)
or, for one input, an image file. A photo comes back whole: 16 bits, gray, transparency, colour profile, EXIF, XMP and
resolution are kept, the orientation is applied. No file is overwritten without --force, and no input ever.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantsr import photos, zoo
from quantsr.batch.plan import FIELDS, TEMPLATE, Job, Naming, PlanError, plan
from quantsr.commands.common import (
    NONE_DONE,
    SOME_FAILED,
    USAGE,
    Failure,
    add_model,
    add_threads,
    positive,
    size_in_bytes,
    usage_errors,
)
from quantsr.engine import TooLittleMemory
from quantsr.model import Model, load
from quantsr.packing.fast import NothingToRound
from quantsr.packing.ops import DEPTHS, UPSCALES, PackedModelError

MIB = 1 << 20
PROGRAM_BYTES = 80 * MIB  # the interpreter with its libraries, and a model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="an image file, or a folder of them")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: beside each input")
    parser.add_argument("-r", "--recursive", action="store_true", help="a folder's folders too, mirrored in OUT")
    parser.add_argument("-s", "--scale", type=int, choices=UPSCALES, help="default: 4, or what MODEL does")
    add_model(parser, required=False)
    parser.add_argument("--depth", choices=DEPTHS, default="full", help="fewer blocks: faster, a little less sharp")
    parser.add_argument(
        "--fast", action="store_true", help="8 bits behind the body: faster with AMX, up to 0.02 dB less"
    )
    parser.add_argument("-f", "--format", choices=photos.FORMATS, help="default: the input's, or png")
    parser.add_argument("--quality", type=_percent, metavar="N", help="of JPEG, WebP (default: 95), AVIF (85); to 100")
    parser.add_argument("--strip", action="store_true", help="leave out EXIF, XMP, colour profile and resolution")
    fields = ", ".join(f"{{{field}}}" for field in FIELDS)
    shown = f"{TEMPLATE}; of {fields}".replace("%", "%%")
    parser.add_argument("--template", default=TEMPLATE, metavar="T", help=f"names of the results; default: {shown}")
    parser.add_argument("-t", "--tile", type=positive, metavar="N", help="tile side in input pixels; same result")
    parser.add_argument("--memory", type=size_in_bytes, metavar="SIZE", help="stay below, such as 1GiB; same result")
    parser.add_argument("--force", action="store_true", help="overwrite existing results, never an input")
    parser.add_argument("--no-check", action="store_true", help="do not compare results with their inputs")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    with usage_errors(PackedModelError):
        model = load(args.model or zoo.default_name(args.scale or 4), args.threads, args.fast)
    if args.scale not in (None, model.scale):
        raise Failure(f"model {args.model} does x{model.scale}, not x{args.scale}", USAGE)
    if args.depth not in model.depths:
        raise Failure(f"got depth {args.depth!r}, this model has {', '.join(model.depths)}", USAGE)
    with usage_errors(NothingToRound):
        model.engine(args.depth)
    name = Path(args.model or zoo.default_name(model.scale)).stem
    with usage_errors(PlanError):
        naming = Naming(model.scale, name, args.depth, args.template, args.format)
        jobs = plan(args.inputs, args.output, naming, recursive=args.recursive)
    inputs = {job.source.resolve() for job in jobs}
    console = Console(stderr=True)
    failed = 0
    with _progress(console) as progress:
        task = progress.add_task("", total=len(jobs))
        for job in jobs:
            try:
                _upscale_file(args, model, job, inputs)
            except (photos.PhotoError, FileExistsError) as error:
                failed += 1
                console.print(f"quantsr: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    return 0 if not failed else NONE_DONE if failed == len(jobs) else SOME_FAILED


def _percent(text: str) -> int:
    value = positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 1 to 100")
    return value


def _upscale_file(args: argparse.Namespace, model: Model, job: Job, inputs: set[Path]) -> None:
    start = time.monotonic()
    source, target = job.source, job.target
    if target.exists():
        if target.resolve() in inputs:
            raise FileExistsError(f"{source}: not written over the input {target}; choose another -o")
        if not args.force:
            raise FileExistsError(f"{source}: {target} exists; pass --force to overwrite it")
    photo = photos.read(source)
    if args.strip:
        photo = photos.Photo(photo.pixels)
    photos.check_fits(target, photo, model.scale)
    memory = args.memory and args.memory - _taken(photo, model.scale)
    try:
        result = model.upscale(photo.pixels, depth=args.depth, tile=args.tile, memory=memory)
    except TooLittleMemory as error:
        wanted = (args.memory + error.lacking) // MIB + 1
        raise photos.PhotoError(f"{source}: got --memory {args.memory // MIB} MiB, wanted {wanted} MiB") from None
    if not args.no_check and (wrong := photos.mismatch(photo.pixels, result, model.scale)):
        raise photos.PhotoError(f"{source}: {wrong}; nothing written")
    target.parent.mkdir(parents=True, exist_ok=True)
    photos.write(target, photos.Photo(result, photo.metadata), quality=args.quality)
    height, width = result.shape[:2]
    print(f"{source} -> {target}  {width}x{height}  {time.monotonic() - start:.1f} s", flush=True)


def _taken(photo: photos.Photo, scale: int) -> int:
    """Bytes of memory that are needed whatever the tile: program, picture, result, and the encoder's copy of it."""
    encoder = 4 * photo.pixels.shape[0] * photo.pixels.shape[1] * scale**2  # Pillow keeps 4 bytes for a pixel
    return PROGRAM_BYTES + photo.pixels.nbytes * (1 + scale**2) + encoder


def _progress(console: Console) -> Progress:
    columns = (TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
