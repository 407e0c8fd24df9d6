"""Inputs for fuzz_plan to start from: the small networks of the tests, as the bytes that fuzz_plan.cc reads.

python native/fuzz/seeds.py FOLDER
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from packing.tiny import tiny_model  # noqa: E402

from quantsr.engine import native_op  # noqa: E402
from quantsr.packing.collapse import collapse_tail  # noqa: E402
from quantsr.packing.ops import IMAGE, Program  # noqa: E402

# As in fuzz_plan.cc: its rows of kinds, its lists of bits and of levels.
KINDS = ("affine", "conv2d", "edge_conv2d", "quantize", "qconv2d", "edge_qconv2d", "relu", "residual", "pixel_shuffle")
BITS, LEVELS = (4, 2, 3, 8), (15, 7, 3, 255)
MODELS = (
    {"channels": 3, "blocks": 1},
    {"weight_bits": 2, "act_bits": 2, "channels": 5, "blocks": 2},
    {"weight_bits": 3, "act_bits": 4, "channels": 16, "upscale": 3, "upsampler": "direct", "blocks": 1},
    {"upscale": 4, "kernel": 1, "blocks": 1},
    {"channels": 33, "blocks": 2, "upsampler": "direct"},
)


def encoded(program: Program, tensors: dict, isa: int, size: tuple[int, int] = (4, 6)) -> bytes:
    """isa: counts modulo those of the machine."""
    data = bytearray([isa, 0, 0, *size, 0, 0])
    made = [IMAGE]
    for op in program.ops:
        data += bytes([KINDS.index(op.kind), 0])
        data += bytes(len(made) - 1 - made.index(name) for name in op.inputs)
        outputs, side = 0, 0
        if "weight" in op.tensors:
            shape = native_op(op, tensors)[4]["weight"].shape
            outputs, side = shape[-4] - 1, shape[-2] // 2
        data += bytes([outputs, side])
        data += bytes(_attribute(name, value) for name, value in _in_order(op.attrs))
        data += bytes(len(op.tensors))
        made.append(op.output)
    return bytes(data)


def _in_order(attrs: dict) -> list[tuple[str, float]]:
    order = ("inv", "levels", "in_channels", "out_channels", "kernel", "weight_bits", "act_bits", "zero")
    return sorted(attrs.items(), key=lambda item: order.index(item[0]) if item[0] in order else 0)


def _attribute(name: str, value: float) -> int:
    if name == "weight_bits":
        return BITS.index(value)
    if name == "levels":
        return LEVELS.index(value)
    return {"zero": int(value), "upscale": int(value) - 2}.get(name, 0)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, settings in enumerate(MODELS):
        model = tiny_model(**settings)
        for name, (program, tensors) in {
            "plain": (model.programs["full"], model.tensors),
            "collapsed": collapse_tail(model.programs["full"], model.tensors),
        }.items():
            for isa in range(4):
                (folder / f"{name}-{number}-{isa}").write_bytes(encoded(program, tensors, isa))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
