"""Pack a trained checkpoint into one file of low-bit codes that the engine runs."""

import argparse
from pathlib import Path

from quantsr.commands.common import USAGE, Failure, usage_errors
from quantsr.packing.file import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="weights.safetensors or a checkpoint of a run")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--name", help="default: the name of FILE")
    parser.add_argument("--licence", default="", help="licence of the weights, as an SPDX expression")


def run(args: argparse.Namespace) -> int:
    try:
        from quantsr.export import pack_checkpoint
    except ImportError as error:
        raise Failure(f"packing needs torch ({error}): pip install 'quantsr[train]'", USAGE) from error
    if args.output.resolve() == args.checkpoint.resolve():
        raise Failure(f"-o: got the checkpoint itself, {args.output}; wanted another file", USAGE)
    with usage_errors(ValueError):
        packed = pack_checkpoint(args.checkpoint, name=args.name or args.output.stem, licence=args.licence)
    write(args.output, packed)
    depths = ", ".join(f"{depth} {len(kept)} blocks" for depth, kept in packed.info["depths"].items())
    print(f"{args.output}: {args.output.stat().st_size} bytes; {depths}")
    return 0
