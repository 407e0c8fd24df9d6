"""Pack a trained checkpoint into one file of low-bit codes that the engine runs."""

import argparse

from quantsr.commands.common import add_output, extra_needed, new_file, place, usage_errors
from quantsr.packing.file import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=place, help="weights.safetensors or a checkpoint of a run")
    add_output(parser)
    parser.add_argument("--name", help="default: the name of FILE")
    parser.add_argument("--licence", default="", help="licence of the weights, as an SPDX expression")


def run(args: argparse.Namespace) -> int:
    with extra_needed("packing", "train", "torch"):
        from quantsr.export import pack_checkpoint
    output = new_file(args.output, args.force, args.checkpoint)
    with usage_errors(ValueError):
        packed = pack_checkpoint(args.checkpoint, name=args.name or output.stem, licence=args.licence)
    write(output, packed)
    depths = ", ".join(f"{depth} {len(kept)} blocks" for depth, kept in packed.info["depths"].items())
    print(f"{output}: {output.stat().st_size} bytes; {depths}")
    return 0
