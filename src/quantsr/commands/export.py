"""Write a packed model as an ONNX file for other runtimes, and compare what ONNX Runtime makes of it with the engine.

Styles: qdq-int8 (8-bit containers, what runtimes have integer kernels for), int4 (INT4 and UINT4 tensors, a small
file), int2 (INT2 and UINT2 tensors, for networks of 2 bits, the smallest file), qonnx (Quant nodes of any width, for
FPGA tools). The exit code is 1 if the runtime's picture is another one.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from quantsr import photos, pixels, zoo
from quantsr.commands.common import Failure, add_output, extra_needed, new_file, place, usage_errors
from quantsr.engine import Engine
from quantsr.images import Float32
from quantsr.packing.fast import picture
from quantsr.packing.program import DEPTHS, PackedModelError

LARGEST_SIDE = 512  # LR pixels of a photo that are compared, from its middle
SAME = 45.0  # dB between two executions of one network; flipped codes leave more, see docs/onnx.md
STYLES = {
    "qdq-int8": "OpenVINO computes the low-bit layers in 8-bit integers; ONNX Runtime turns codes into float32 and "
    "computes in that",
    "int4": "a small file; ONNX Runtime and OpenVINO turn codes into float32 and compute in that",
    "int2": "the smallest file, of 2-bit networks; ONNX Runtime turns codes into float32 and computes in that, "
    "OpenVINO 2026.4 cannot read it",
    "qonnx": "for FINN, hls4ml and other tools that read QONNX; no plain runtime executes Quant, and here its formula "
    "was written out in plain ops",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a bundled model's name, or a packed file")
    parser.add_argument("--style", choices=STYLES, default="qdq-int8", help="default: qdq-int8")
    parser.add_argument("--depth", choices=DEPTHS, default="full", help="default: full")
    add_output(parser, default="MODEL-DEPTH-STYLE.onnx")
    parser.add_argument(
        "--size", type=_size, metavar="WxH", help="of the image, such as 320x240; only a transformer's graph holds it"
    )
    parser.add_argument("--photo", type=place, metavar="FILE", help="what to compare on; default: a made-up picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    with extra_needed("exporting", "onnx", "onnx", "onnxruntime", "ml_dtypes"):
        from quantsr import export_onnx, onnx_parity
    image = _image(args.photo, args.size)
    with usage_errors(PackedModelError, ValueError, FileNotFoundError):
        source, packed = zoo.find(args.model), zoo.load_packed(args.model)
        output = args.output or Path(f"{source.stem}-{args.depth}-{args.style}.onnx")
        new_file(output, args.force, source, *filter(None, [args.photo]))
        sized = export_onnx.holds_size(packed.programs["full"])
        if sized != (args.size is not None):
            wanted = "wanted one, which the graph of a transformer holds" if sized else "only a transformer has one"
            raise ValueError(f"--size: got {'none' if sized else 'one'}, {wanted}")
        engine = Engine(packed, args.depth)
        model = export_onnx.export(packed, args.depth, output, args.style, args.size)
    try:
        facts = onnx_parity.compare(model, image, engine(image))
    except onnx_parity.RuntimeRefused as error:
        raise Failure(f"{output} is written, but cannot be compared: {error}", 1) from error
    facts = {"file": str(output), "bytes": output.stat().st_size, "style": args.style, "depth": args.depth} | facts
    facts |= {"model": args.model, "note": STYLES[args.style]}
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    distance = facts["default"]["psnr"]
    if distance is not None and distance < SAME:
        raise Failure(f"{output}: {facts['runtime']} gives another picture, {distance:.1f} dB from the engine's", 1)
    return 0


def _image(path: Path | None, size: tuple[int, int] | None) -> Float32:
    """float32 (H, W, 3) in [0, 1]; of this size, mirrored where the picture is smaller, or of at most LARGEST_SIDE."""
    image = picture()
    if path is not None:
        with usage_errors(photos.PhotoError, OSError):
            image = pixels.to_network(photos.read(path).pixels)
    height, width = size or (min(side, LARGEST_SIDE) for side in image.shape[:2])
    lacking = [max(0, wanted - side) for wanted, side in zip((height, width), image.shape[:2], strict=True)]
    image = np.pad(image, [(0, lacking[0]), (0, lacking[1]), (0, 0)], "symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _size(text: str) -> tuple[int, int]:
    """Height and width."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted width and height in pixels, such as 320x240")
    return int(match[2]), int(match[1])


def _text(facts: dict[str, Any]) -> str:
    width, height = facts["picture"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["convolutions"].items())
    return "\n".join(
        [
            f"{facts['file']}: {facts['bytes']:,} bytes, {facts['style']}, {facts['depth']} depth",
            f"{facts['runtime']} against the engine, on {width}x{height} pixels, 8-bit results:",
            f"  as it runs by default    {_gap(facts['default'])}",
            f"  graph not optimised      {_gap(facts['not_optimised'])}",
            f"  convolutions that it ran {kinds}",
            facts["note"],
        ]
    )


def _gap(found: dict[str, Any]) -> str:
    if found["psnr"] is None:
        return "equal"
    return f"{found['share']:.3%} of the samples differ, by at most {found['levels']}; {found['psnr']:.1f} dB"
