"""Measure the engine against other runtimes on the same network, in one interleaved run.

Runtimes that are not installed, or cannot run the network, are named and left out; pip install ".[bench]" in the
source folder gets them. Without --model the network has random weights in the shape of EDSR, W4A4, x4.
Peers get the same weights as floats. With --photo, a trained network runs on the photo, which was reduced before, and
the tables show PSNR. More: docs/benchmarks.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quantsr import images, zoo
from quantsr.bench import machine, random_network, report
from quantsr.bench.cases import Network, Picture, reduced, square
from quantsr.bench.engines import FAST, OURS, PEERS, engines
from quantsr.bench.measure import LIMITS
from quantsr.bench.parts import PARTS, TAILS
from quantsr.bench.rows import Row
from quantsr.bench.run import Run
from quantsr.commands.common import (
    NONE_DONE,
    SOME_FAILED,
    USAGE,
    Failure,
    how_to_install,
    number,
    place,
    results_file,
    usage_errors,
)
from quantsr.engine import MAX_THREADS, available_isas
from quantsr.files import identity, write_atomically
from quantsr.packing.program import FLOAT_BITS, PackedModel, PackedModelError
from quantsr.photos import PhotoError
from quantsr.photos.source import open_file

TRAINED = "quantsr-c-x4-w4a4"  # for PSNR without --model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    network.add_argument("-n", "--model", help="a bundled model's name, or a packed file; default: random weights")
    network.add_argument("--float-model", metavar="FILE", help="packed float network for the peers' whole network")
    network.add_argument("--blocks", type=number(1), default=16, help="of the random network (default: 16)")
    network.add_argument("--upsampler", choices=("paper", "direct"), default="paper", help="of it (default: paper)")
    network.add_argument("--seed", type=number(0), default=0, help="of the random weights and pictures (default: 0)")
    work = parser.add_argument_group("work")
    work.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    work.add_argument("--tails", nargs="+", choices=TAILS, default=list(TAILS), help="of part network (default: all)")
    work.add_argument(
        "--size", nargs="+", type=number(1), default=[128, 256], metavar="N", help="LR side (default: 128 256)"
    )
    work.add_argument("--photo", type=place, help="also the whole of this photo, and PSNR")
    work.add_argument(
        "--threads", nargs="+", type=number(1, MAX_THREADS), default=[1, 2], metavar="N", help="default: 1 2"
    )
    work.add_argument("--rounds", type=number(1), default=11, metavar="N", help="turns of each engine (default: 11)")
    who = parser.add_argument_group("engines")
    who.add_argument("--engines", nargs="+", metavar="NAME", choices=engines(), help=", ".join(engines()))
    who.add_argument("--each-isa", action="store_true", help="our engine on every instruction set, plain C++ aside")
    who.add_argument(
        "--max-isa",
        choices=[*LIMITS, "native"],
        default="native",
        help="for us and, if they can, peers (default: native, all that the CPU has)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=place, metavar="FILE", help="also write the results there, over earlier ones")
    output.add_argument("--plot", type=place, metavar="FILE", help="bars, as PNG, PDF or SVG; needs matplotlib")


def run(args: argparse.Namespace) -> int:
    if args.plot:
        with usage_errors(ModuleNotFoundError, ValueError):
            report.check_plot(args.plot)
        if args.photo and args.plot.exists() and identity(args.plot) == identity(args.photo):
            raise Failure(f"--plot: got {args.plot}, which is read; wanted another file", USAGE)
    if args.json:
        results_file(args.json, "rows")
    limit = None if args.max_isa == "native" else args.max_isa
    with usage_errors(PackedModelError, images.ImageError, PhotoError):
        photo = None if args.photo is None else _photo(args.photo)
        main, trained = _networks(args)
    chosen, left_out = _engines(args, limit, main)
    asked, no_parts = _parts(args.parts, main)
    left_out |= no_parts
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    pictures = [square(photo, side, args.seed) for side in args.size]
    pictures += [] if photo is None else [Picture(photo)]
    with tempfile.TemporaryDirectory(prefix="quantsr-bench-") as folder:
        bench = Run(Path(folder), chosen, args.rounds, limit, args.seed, lambda text: print(text, file=sys.stderr))
        for part, tail in _pieces(asked, args.tails, main):
            _show(bench.part(main, part, tail, pictures, args.threads))
        if photo is not None:
            truth = reduced(photo, trained.upscale)
            for part, tail in _pieces(["network"], args.tails, trained):
                _show(bench.part(trained, part, tail, [truth], [max(args.threads)]))
    if args.json:
        found = {
            "machine": machine.machine(),
            "versions": machine.versions(),
            "settings": {"rounds": args.rounds, "max_isa": args.max_isa, "seed": args.seed},
            "left_out": left_out,
            "failed": bench.failed,
            "rows": bench.rows,
        }
        write_atomically(args.json, json.dumps(found, indent=1).encode())
    if args.plot and bench.rows:
        report.plot(bench.rows, args.plot)
    return 0 if not bench.failed else SOME_FAILED if bench.rows else NONE_DONE


def _photo(path: Path) -> images.UInt8:
    with suppress(OSError):  # which `read` tells
        open_file(path).close()  # a pipe is refused, for which `read` would wait
    return images.read(path)


def _networks(args: argparse.Namespace) -> tuple[Network, Network]:
    """What is timed, and the trained one for PSNR."""
    float_model = None if args.float_model is None else zoo.load_packed(args.float_model)
    if args.model is not None:
        network = _network(zoo.load_packed(args.model), float_model)
        return network, network
    packed = random_network.network(blocks=args.blocks, upsampler=args.upsampler, seed=args.seed)
    return _network(packed, None), _network(zoo.load_packed(TRAINED), float_model)


def _network(packed: PackedModel, float_model: PackedModel | None) -> Network:
    name = packed.info["name"]
    if packed.info["weight_bits"] == FLOAT_BITS:
        raise Failure(f"got the float network {name} to measure, wanted a low-bit one", USAGE)
    if float_model is not None and float_model.info["upscale"] != packed.info["upscale"]:
        got, wanted = float_model.info["upscale"], packed.info["upscale"]
        raise Failure(f"--float-model: got one of scale {got}, wanted {wanted} as {name} has", USAGE)
    return Network.of(packed, float_model)


def _engines(args: argparse.Namespace, limit: str | None, network: Network) -> tuple[list[str], dict[str, str]]:
    """Those to measure, and why others are left out."""
    known, isas = engines(), available_isas()
    if limit is not None and limit not in isas:
        raise Failure(f"--max-isa: got {limit}, wanted one that this CPU has ({', '.join(isas)})", USAGE)
    allowed = isas[: isas.index(limit) + 1] if limit else isas
    each = [f"{OURS}-{isa}" for isa in reversed(allowed) if isa != "ref"] if args.each_isa else []
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in args.engines or [OURS, FAST, *each, *PEERS]:
        engine = known[name]
        if missing := engine.missing():
            left_out[name] = f"needs {', '.join(missing)}: {how_to_install('bench')}"
        elif engine.bf16 and (limit or not machine.multiplies_bf16()):
            left_out[name] = "no bfloat16 instructions, or not within --max-isa"
        elif engine.settings.get("isa", allowed[0]) not in allowed:
            left_out[name] = f"beyond --max-isa {limit}"
        elif network.has_size and not engine.transformers:
            left_out[name] = "cannot be given transformers"
        else:
            chosen.append(name)
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise Failure(f"no engine is left to measure ({reasons})", NONE_DONE)
    return chosen, left_out


def _parts(asked: list[str], network: Network) -> tuple[list[str], dict[str, str]]:
    """Those that the network has, and why others are left out."""
    if not network.has_size:
        return asked, {}
    if "network" not in asked:
        raise Failure(f"--parts: got {' '.join(asked)}, wanted network, the only part of a transformer", USAGE)
    return ["network"], {f"part {part}": "of a transformer only the whole" for part in asked if part != "network"}


def _pieces(parts: list[str], tails: list[str], network: Network) -> Iterator[tuple[str, str]]:
    """Parts, each with the tails that it can have."""
    for part in parts:
        if part != "network":
            yield part, "as-is"
            continue
        yield from ((part, tail) for tail in tails if tail == "as-is" or network.can_collapse())


def _show(rows: list[Row]) -> None:
    for case in report.by_case(rows):
        print(report.table(case), end="\n\n", flush=True)
