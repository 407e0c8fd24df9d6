"""Upscale photos.

OUT is a folder (made if needed; results are named NAME_x4.png and so on) or, for one input, an image file.
Colour profile, EXIF and resolution are kept; the orientation tag is applied. No file is overwritten without --force.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantsr import images, zoo
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
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="an image file")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: beside each input")
    parser.add_argument("-s", "--scale", type=int, choices=UPSCALES, help="default: 4, or what MODEL does")
    add_model(parser, required=False)
    parser.add_argument("--depth", choices=DEPTHS, default="full", help="fewer blocks: faster, a little less sharp")
    parser.add_argument(
        "--fast", action="store_true", help="8 bits behind the body: faster with AMX, up to 0.02 dB less"
    )
    parser.add_argument("-t", "--tile", type=positive, metavar="N", help="tile side in input pixels; same result")
    parser.add_argument("--memory", type=size_in_bytes, metavar="SIZE", help="stay below, such as 1GiB; same result")
    parser.add_argument("--force", action="store_true", help="overwrite existing results, never an input")
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
    targets = _targets(args, model.scale)
    console = Console(stderr=True)
    failed = 0
    with _progress(console) as progress:
        task = progress.add_task("", total=len(args.inputs))
        for source, target in zip(args.inputs, targets, strict=True):
            try:
                _upscale_file(args, model, source, target)
            except (images.ImageError, FileExistsError) as error:
                failed += 1
                console.print(f"quantsr: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    return 0 if not failed else NONE_DONE if failed == len(args.inputs) else SOME_FAILED


def _targets(args: argparse.Namespace, scale: int) -> list[Path]:
    """Where each input's result goes; raises Failure if two results would meet in one file."""
    out = args.output
    if out is not None and out.suffix.lower() in images.SUFFIXES and not out.is_dir():
        if len(args.inputs) > 1:
            raise Failure(f"got {len(args.inputs)} inputs for the one file {out}, wanted a folder", USAGE)
        targets = [out]
    else:
        targets = [(out or source.parent) / f"{source.stem}_x{scale}{_suffix(source)}" for source in args.inputs]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise Failure(f"several inputs would be written to {min(twice)}; rename them or run them apart", USAGE)
    return targets


def _suffix(source: Path) -> str:
    return source.suffix if source.suffix.lower() in images.SUFFIXES else ".png"


def _upscale_file(args: argparse.Namespace, model: Model, source: Path, target: Path) -> None:
    start = time.monotonic()
    if target.exists():
        if any(target.samefile(other) for other in args.inputs if other.exists()):
            raise FileExistsError(f"{source}: not written over the input {target}; choose another -o")
        if not args.force:
            raise FileExistsError(f"{source}: {target} exists; pass --force to overwrite it")
    pixels, metadata = images.read_photo(source)
    memory = args.memory and args.memory - _taken(pixels, model.scale)
    try:
        result = model.upscale(pixels, depth=args.depth, tile=args.tile, memory=memory)
    except TooLittleMemory as error:
        wanted = (args.memory + error.lacking) // MIB + 1
        raise images.ImageError(f"{source}: got --memory {args.memory // MIB} MiB, wanted {wanted} MiB") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    images.write(target, result, **metadata)
    height, width = result.shape[:2]
    print(f"{source} -> {target}  {width}x{height}  {time.monotonic() - start:.1f} s", flush=True)


def _taken(pixels: images.UInt8, scale: int) -> int:
    """Bytes of memory that are needed whatever the tile: program, picture, result, and the encoder's copy of it."""
    encoder = 4 * pixels.shape[0] * pixels.shape[1] * scale**2  # Pillow keeps 4 bytes for a pixel
    return PROGRAM_BYTES + pixels.nbytes * (1 + scale**2) + encoder


def _progress(console: Console) -> Progress:
    columns = (TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
