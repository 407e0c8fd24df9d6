"""Inputs for fuzz_plan to start from: the small networks of the tests, as the bytes that fuzz_plan.cc reads.

python native/fuzz/seeds.py FOLDER
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from packing.tiny import tiny_model  # noqa: E402

from quantsr.engine import native_op  # noqa: E402
from quantsr.packing.collapse import collapse_tail  # noqa: E402
from quantsr.packing.program import IMAGE, Op, Program  # noqa: E402

# As in fuzz_plan.cc: its rows of kinds, its lists of bits and of levels.
KINDS = (
    "affine", "conv2d", "edge_conv2d", "quantize", "qconv2d", "edge_qconv2d", "relu", "residual", "pixel_shuffle",
    "pad", "crop", "layer_norm", "gelu", "window_attention", "qwindow_attention",
)  # fmt: skip
BITS, LEVELS, WINDOWS = (4, 2, 3, 8), (15, 7, 3, 255), (4, 8, 2, 3, 5, 16, 32)
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
    order = (
        "inv", "levels", "in_channels", "out_channels", "kernel", "weight_bits", "act_bits", "zero",
        "heads", "window", "shift", "scale", "query_zero", "key_zero", "value_zero", "score_mul", "softmax_inv",
        "softmax_levels", "softmax_zero", "mix_mul",
    )  # fmt: skip
    return sorted(attrs.items(), key=lambda item: order.index(item[0]) if item[0] in order else 0)


def _attribute(name: str, value: float) -> int:
    if name == "weight_bits":
        return BITS.index(value)
    if name == "levels":
        return LEVELS.index(value)
    if name in ("window", "multiple"):
        return WINDOWS.index(value)
    if name.endswith("zero") or name == "shift":
        return int(value)
    return {"upscale": int(value) - 2, "heads": int(value) - 1}.get(name, 0)


def transformer(window: int, shift: int, codes: bool = False) -> tuple[Program, dict]:
    """One layer of attention, of codes or not, and its way in and out."""
    ones = {"scale": "ones", "offset": "ones"}
    tensors = {
        "in": np.ones((24, 3, 3, 3), np.float32), "bias": np.ones(24, np.float32),
        "qkv": np.ones((72, 1, 1, 24), np.float32), "qkv bias": np.ones(72, np.float32),
        "ones": np.ones(24, np.float32), "table": np.ones(((2 * window - 1) ** 2, 2), np.float32),
        "out": np.ones((12, 3, 3, 24), np.float32), "out bias": np.ones(12, np.float32),
    }  # fmt: skip
    attention = Op(
        "window_attention",
        ("all",),
        "attended",
        {"heads": 2, "window": window, "shift": shift, "scale": 1.0},
        {"position_bias": "table"},
    )
    if codes:
        tensors |= {"zeros": np.zeros(72, np.float32), "softmax": np.zeros(2, np.float32)}
        attrs = {"heads": 2, "window": window, "shift": shift, "query_zero": 8, "key_zero": 7, "value_zero": 0}
        attrs |= {"score_mul": 1.0, "softmax_inv": 1.0, "softmax_levels": 15, "softmax_zero": 1, "mix_mul": 1.0}
        names = {"position_bias": "table", "softmax_offset": "softmax"}
        attention = Op("qwindow_attention", ("codes",), "attended", attrs, names)
    ops = (
        Op("pad", (IMAGE,), "padded", {"multiple": window}),
        Op("conv2d", ("padded",), "stream", {}, {"weight": "in", "bias": "bias"}),
        Op("layer_norm", ("stream",), "normed", {"epsilon": 1e-5}, ones),
        Op("conv2d", ("normed",), "all", {}, {"weight": "qkv", "bias": "qkv bias"}),
        *([Op("quantize", ("all",), "codes", {"inv": 1.0, "levels": 15}, {"offset": "zeros"})] if codes else []),
        attention,
        Op("gelu", ("attended",), "bent"),
        Op("residual", ("stream", "bent"), "sum", {"gain": 1.0}),
        Op("crop", ("sum", IMAGE), "cropped", {"factor": 1}),
        Op("conv2d", ("cropped",), "up", {}, {"weight": "out", "bias": "out bias"}),
        Op("pixel_shuffle", ("up",), "end", {"upscale": 2}),
    )
    return Program(ops, "end"), tensors


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    programs = {f"transformer-{w}-{shift}": transformer(w, shift) for w, shift in ((4, 0), (8, 4), (3, 1))}
    programs |= {f"products-{w}-{shift}": transformer(w, shift, codes=True) for w, shift in ((4, 0), (8, 4), (3, 1))}
    for number, settings in enumerate(MODELS):
        model = tiny_model(**settings)
        programs[f"plain-{number}"] = (model.programs["full"], model.tensors)
        programs[f"collapsed-{number}"] = collapse_tail(model.programs["full"], model.tensors)
    for name, (program, tensors) in programs.items():
        for isa in range(5):
            (folder / f"{name}-{isa}").write_bytes(encoded(program, tensors, isa))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
