"""Turn a checkpoint of another project into one of ours, from which training and packing go on.

FILE holds weights of EDSR (names of BasicSR or EDSR-PyTorch) or of SwinIR-light (its authors', KAIR, BasicSR). Any
other network is refused, with what differs. A .pth is a pickle; it is opened only with --pickle, by torch's
weights-only loader, and nothing in it runs.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any

from quantsr import images
from quantsr.backends import of_network
from quantsr.commands.common import USAGE, Failure, add_output, extra_needed, new_file, usage_errors
from quantsr.packing.fast import picture
from quantsr.photos.check import mismatch

KINDS = ("edsr", "swinir")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a .safetensors, or with --pickle a .pth")
    parser.add_argument("--as", choices=KINDS, required=True, dest="kind", help="what network it is")
    add_output(parser, default="NAME-imported.safetensors")
    parser.add_argument("--pickle", action="store_true", help="also read a .pth, tensors alone")
    parser.add_argument(
        "--img-range", type=float, metavar="R", help="range of its pixels, if the file does not say: edsr 255, swinir 1"
    )
    parser.add_argument("--res-scale", type=float, metavar="R", help="what its blocks multiply by; default: 1")
    parser.add_argument("--no-check", action="store_true", help="do not look whether it enlarges a picture")


def run(args: argparse.Namespace) -> int:
    with extra_needed("importing", "train", "torch"):
        from quantsr import checkpoint, foreign
    output = new_file(args.output or Path(f"{args.file.stem}-imported.safetensors"), args.force, args.file)
    with usage_errors(ValueError):
        found = foreign.load(
            args.file, args.kind, pickle=args.pickle, img_range=args.img_range, res_scale=args.res_scale
        )
        if not args.no_check:
            _check(checkpoint.network_of(found, args.file), args.file)
    checkpoint.save(output, found)
    model, (stage,) = found.config.model, found.state["history"]
    facts = ", ".join(f"{name} {value}" for name, value in stage.items())
    print(f"{output}: {model.backbone} x{model.upscale}, {model.blocks} blocks of {model.channels} channels; {facts}")
    print("a recipe trains it with", *(f"--with model.{name}={value}" for name, value in _settings(model).items()))
    return 0


def _settings(model: Any) -> dict[str, Any]:
    """Those of [model] that its backbone knows."""
    from quantsr.models import MODELS

    known = inspect.signature(MODELS[model.backbone]).parameters
    return {name: value for name, value in vars(model).items() if name == "backbone" or (name in known and value)}


def _check(network: Any, path: Path) -> None:
    """Raises Failure unless the network makes of a picture a larger one that resembles it."""
    image = images.to_uint8(picture())
    if bad := mismatch(image, of_network(network, "full")(image), network.upscale):
        hint = "another --img-range or --res-scale? --no-check writes it all the same"
        raise Failure(f"{path}: it does not enlarge: {bad}; {hint}", USAGE)
