"""Score a model on benchmark sets: PSNR and SSIM on Y by the papers' protocol.

MODEL is a bundled model's name, a packed file, a training checkpoint, or bicubic-x2, bicubic-x3, bicubic-x4. A
checkpoint is packed in memory first; --backend torch runs its network as it is, so what cannot be packed too.
--zoo scores all bundled models at all depths instead and compares with the stored scores; the exit code is 1 if a file
is not the recorded one or a PSNR differs by more than 0.01 dB.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from quantsr import images, zoo
from quantsr.backends import BACKENDS, engine, of_network
from quantsr.commands.common import USAGE, Failure, add_threads, extra_needed, place, results_file, usage_errors
from quantsr.data import benchmarks
from quantsr.evaluate import Upscaler, evaluate
from quantsr.files import write_atomically
from quantsr.packing.file import NotAModelError
from quantsr.packing.program import DEPTHS, PackedModelError

SETS = ["Set5", "Set14", "B100"]
TOLERANCE = 0.01  # dB
BICUBIC = {f"bicubic-x{scale}": scale for scale in (2, 3, 4)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("-n", "--model", help="see above")
    which.add_argument("--zoo", action="store_true", help="check the stored scores of all bundled models")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the benchmark sets")
    parser.add_argument(
        "--set", nargs="+", default=SETS, dest="sets", metavar="NAME", choices=benchmarks.BENCHMARKS,
        help=f"default: {' '.join(SETS)}",
    )  # fmt: skip
    parser.add_argument("--depth", choices=[*DEPTHS, "all"], default="full", help="default: full")
    parser.add_argument("--backend", choices=BACKENDS, default="engine", help="what computes (default: engine)")
    parser.add_argument("--fast", action="store_true", help="the engine's 8-bit arithmetic in the last layers")
    parser.add_argument("-x", "--tta", action="store_true", help="the engine's mean of 8 turned views")
    parser.add_argument("--json", type=place, metavar="FILE", help="also write the results there, over earlier ones")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    _require_use(args)
    if args.json:
        results_file(args.json, "results")
    if args.backend == "torch":
        with extra_needed("--backend torch", "train", "torch"):
            import torch  # noqa: F401
    return _zoo(args) if args.zoo else _one(args)


def _require_use(args: argparse.Namespace) -> None:
    """Raises Failure for an option that would change nothing, or what stored scores are compared with."""
    options = {"--fast": args.fast, "--tta": args.tta, "--depth": args.depth != "full"}
    options["--backend"] = args.backend != "engine"
    for option in (option for option, given in options.items() if given):
        if args.zoo:
            raise Failure(f"{option}: --zoo scores all depths as they are stored, wanted none", USAGE)
        if args.model in BICUBIC and (option, args.depth) != ("--depth", "all"):
            raise Failure(f"{option}: {args.model} is no network, wanted none", USAGE)
        if args.backend != "engine" and option in ("--fast", "--tta"):
            raise Failure(f"{option}: got backend {args.backend}, wanted engine", USAGE)


def _require_sets(args: argparse.Namespace) -> None:
    """All of them, before the first is scored."""
    with usage_errors(benchmarks.BenchmarkError):
        for name in args.sets:
            benchmarks.hr_files(args.data, name)


def _one(args: argparse.Namespace) -> int:
    results: list[dict[str, Any]] = []
    with usage_errors(benchmarks.BenchmarkError, images.ImageError, PackedModelError):
        for row in _rows(args, args.model, args.depth):
            if not results:
                print(f"{'model':<22} {'set':<9} {'depth':<8} {'PSNR':>6}  SSIM")
            results.append(row)
            scores = f"{row['psnr']:6.2f}  {row['ssim']:.4f}"
            print(f"{row['model']:<22} {row['set']:<9} {row['depth']:<8} {scores}", flush=True)
    _write(args.json, results)
    return 0


def _zoo(args: argparse.Namespace) -> int:
    results, off = [], 0
    known = {name for model in zoo.bundled() for scores in zoo.stored(model)["scores"].values() for name in scores}
    if unknown := sorted(set(args.sets) - known):
        raise Failure(f"--set: got {unknown[0]}, wanted of those with stored scores: {', '.join(sorted(known))}", USAGE)
    _require_sets(args)
    print(f"{'model':<22} {'set':<9} {'depth':<8} {'PSNR':>7} {'stored':>7}")
    with usage_errors(benchmarks.BenchmarkError, images.ImageError, PackedModelError):
        for name in zoo.bundled():
            record = zoo.stored(name)
            if hashlib.sha256(zoo.find(name).read_bytes()).hexdigest() != record["sha256"]:
                off += 1
                print(f"{name}: not the file on record (SHA-256)")
            for row in _rows(args, name, "all"):
                stored = record["scores"][row["depth"]][row["set"]]["psnr"]
                same = abs(row["psnr"] - stored) <= TOLERANCE
                off += not same
                results.append(row | {"stored": stored})
                told = f"{row['psnr']:7.3f} {stored:7.3f}  {'' if same else 'DIFFERS'}"
                print(f"{name:<22} {row['set']:<9} {row['depth']:<8} {told}".rstrip(), flush=True)
    _write(args.json, results)
    print(f"{len(results)} scores checked, {off} differences" if off else f"{len(results)} scores, all as stored")
    return 1 if off else 0


def _write(path: Path | None, results: list[dict[str, Any]]) -> None:
    if path:
        write_atomically(path, json.dumps({"results": results}, indent=2).encode())


def _rows(args: argparse.Namespace, model: str, depths: str) -> Iterator[dict[str, Any]]:
    for number, (depth, scale, upscaler) in enumerate(_upscalers(args, model, depths)):
        if number == 0:
            _require_sets(args)
        for name in args.sets:
            score = evaluate(upscaler, benchmarks.pairs(args.data, name, scale), scale)
            yield {
                "model": model,
                "set": name,
                "scale": scale,
                "depth": depth,
                "backend": args.backend,
                "fast": args.fast,
                "tta": args.tta,
                "psnr": score.psnr,
                "ssim": score.ssim,
                "images": score.images,
            }


def _upscalers(args: argparse.Namespace, model: str, wanted: str) -> Iterator[tuple[str, int, Upscaler]]:
    """Depth, scale and upscaler of each evaluation."""
    if model in BICUBIC:
        scale = BICUBIC[model]
        yield "full", scale, lambda lr: images.bicubic(lr, scale)
        return
    known, scale, make = _opened(args, model)
    depths = known if wanted == "all" else [wanted]
    if missing := sorted(set(depths) - set(known)):
        raise Failure(f"{model} has no depth {missing[0]!r}, only {', '.join(known)}", USAGE)
    for depth in depths:
        with usage_errors(ValueError):
            run = make(depth)
        yield depth, scale, run


def _opened(args: argparse.Namespace, model: str) -> tuple[Sequence[str], int, Callable[[str], Upscaler]]:
    """A model's depths, its scale, and what makes an upscaler of a depth."""
    try:
        packed = zoo.load_packed(model)
    except NotAModelError as not_packed:
        try:
            from quantsr import checkpoint, export
            from quantsr.quant import NotPackable
        except ModuleNotFoundError:
            raise not_packed from None
        with usage_errors(ValueError):
            if args.backend == "torch":
                network, found = checkpoint.load_network(Path(model))
                run = partial(of_network, network, threads=args.threads)
                return found.config.run.depths, found.config.model.upscale, run
            try:
                packed = export.pack_checkpoint(Path(model), name=Path(model).stem)
            except NotPackable as why:
                raise Failure(f"{why}: --backend torch scores it", USAGE) from why
    backend = partial(engine, fast=args.fast, tta=args.tta) if args.backend == "engine" else BACKENDS[args.backend]
    return list(packed.programs), packed.info["upscale"], lambda depth: backend(packed, depth, args.threads)
