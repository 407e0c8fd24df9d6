"""Score a model on benchmark sets: PSNR and SSIM on Y by the papers' protocol.

MODEL is a bundled model's name, a packed file, a training checkpoint, or bicubic-x2, bicubic-x3, bicubic-x4.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantsr import images, zoo
from quantsr.backends import BACKENDS
from quantsr.commands.common import USAGE, Failure, add_threads, usage_errors
from quantsr.data import benchmarks
from quantsr.evaluate import Upscaler, evaluate
from quantsr.files import write_atomically
from quantsr.packing.file import NotAModelError
from quantsr.packing.ops import DEPTHS, PackedModel, PackedModelError

BICUBIC = {f"bicubic-x{scale}": scale for scale in (2, 3, 4)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--model", required=True, help="see above")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the benchmark sets")
    parser.add_argument("--set", nargs="+", required=True, dest="sets", metavar="NAME", choices=benchmarks.BENCHMARKS)
    parser.add_argument("--depth", choices=[*DEPTHS, "all"], default="full")
    parser.add_argument("--backend", choices=BACKENDS, default="engine", help="what computes (default: engine)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    results = []
    print(f"{'model':<22} {'set':<9} {'depth':<8} {'PSNR':>6}  SSIM")
    with usage_errors(benchmarks.BenchmarkError, images.ImageError, PackedModelError):
        for row in _rows(args):
            results.append(row)
            scores = f"{row['psnr']:6.2f}  {row['ssim']:.4f}"
            print(f"{row['model']:<22} {row['set']:<9} {row['depth']:<8} {scores}", flush=True)
    if args.json:
        write_atomically(args.json, json.dumps({"results": results}, indent=2).encode())
    return 0


def _rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for depth, scale, upscaler in _upscalers(args):
        for name in args.sets:
            score = evaluate(upscaler, benchmarks.pairs(args.data, name, scale), scale)
            yield {
                "model": args.model,
                "set": name,
                "scale": scale,
                "depth": depth,
                "backend": args.backend,
                "psnr": score.psnr,
                "ssim": score.ssim,
                "images": score.images,
            }


def _upscalers(args: argparse.Namespace) -> Iterator[tuple[str, int, Upscaler]]:
    """Depth, scale and upscaler of each evaluation."""
    if args.model in BICUBIC:
        scale = BICUBIC[args.model]
        yield "full", scale, lambda lr: images.bicubic(lr, scale)
        return
    packed = _packed(args.model)
    depths = list(packed.programs) if args.depth == "all" else [args.depth]
    if missing := sorted(set(depths) - set(packed.programs)):
        raise Failure(f"{args.model} has no depth {missing[0]!r}, only {', '.join(packed.programs)}", USAGE)
    for depth in depths:
        yield depth, packed.info["upscale"], BACKENDS[args.backend](packed, depth, args.threads)


def _packed(model: str) -> PackedModel:
    try:
        return zoo.load_packed(model)
    except NotAModelError as not_packed:
        try:
            from quantsr.export import pack_checkpoint
        except ImportError:
            raise not_packed from None
        return pack_checkpoint(Path(model), name=Path(model).stem)
