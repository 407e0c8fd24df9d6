from dataclasses import replace

import numpy as np
import pytest

from packing.tiny import random_image, tiny_model
from quantsr import reference
from quantsr.packing import bits
from quantsr.packing.checks import check_model, check_program, trace
from quantsr.packing.ops import weight_codes
from quantsr.packing.program import IMAGE, FieldError, GraphError, LimitError, Op, PackedModelError, Program
from quantsr.packing.reach import receptive_radius

# channels, blocks, bits, upscale, upsampler -> radius of the full network
RADII = [
    ({"blocks": 0, "upsampler": "direct"}, 3),  # head, after, up
    ({"blocks": 2, "upsampler": "direct"}, 3 + 4),
    ({"blocks": 2, "upsampler": "direct", "kernel": 1}, 3),
    ({"blocks": 0, "upscale": 2}, 4),  # 3 + 1/2
    ({"blocks": 0, "upscale": 3}, 4),  # 3 + 1/3
    ({"blocks": 0, "upscale": 4}, 4),  # 3 + 1/2 + 1/4
    ({"blocks": 32, "upscale": 4}, 4 + 64),
]


@pytest.mark.parametrize(("arguments", "radius"), RADII)
def test_radius_by_hand(arguments, radius):
    model = tiny_model(channels=2, **arguments)
    assert receptive_radius(model.programs["full"], model.tensors) == radius


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize(("depth", "kernel"), [("full", 3), ("quarter", 3), ("half", 1)])
def test_one_pixel_changes_nothing_beyond_the_radius(upscale, depth, kernel):
    model = tiny_model(channels=4, upscale=upscale, kernel=kernel)
    program = model.programs[depth]
    radius = receptive_radius(program, model.tensors)
    side = 2 * radius + 5
    before, middle = random_image(side, side), radius + 2
    after = before.copy()
    after[middle, middle] = 1 - after[middle, middle]
    difference = reference.run(program, model.tensors, before) != reference.run(program, model.tensors, after)
    rows, columns, _ = np.nonzero(difference)
    reach = max(np.abs(rows // upscale - middle).max(), np.abs(columns // upscale - middle).max())
    assert radius - 2 <= reach <= radius  # the outermost change may be lost in quantization


@pytest.mark.parametrize(("upscale", "radius"), [(2, 4), (3, 4), (4, 4)])
def test_radius_is_reached_where_nothing_is_lost(upscale, radius):
    model = tiny_model(channels=4, upscale=upscale, blocks=0, depths={"full": []})
    before = random_image(13, 13)
    after = before.copy()
    after[6, 6] = 1 - after[6, 6]
    outputs = [reference.run(model.programs["full"], model.tensors, image) for image in (before, after)]
    rows, columns, _ = np.nonzero(outputs[0] != outputs[1])
    assert {int(rows.min()) // upscale, int(columns.min()) // upscale} == {6 - radius}
    assert {int(rows.max()) // upscale, int(columns.max()) // upscale} == {6 + radius}


@pytest.mark.parametrize("arguments", [{}, {"upscale": 4}, {"upscale": 3, "upsampler": "direct"}, {"channels": 1}])
def test_values_say_what_running_gives(arguments):
    model = tiny_model(**arguments)
    for program in model.programs.values():
        known = check_program(program, model.tensors, model.info)
        found = reference.run_all(program, model.tensors, random_image(3, 2))
        assert found.keys() == known.keys()
        for name, value in known.items():
            assert found[name].shape == (3 * value.factor, 2 * value.factor, value.channels)
            assert found[name].dtype == (np.uint8 if value.levels else np.float32)


def test_a_kept_block_is_one_residual():
    model = tiny_model(blocks=8)
    kept = {depth: sum(op.kind == "qconv2d" for op in p.ops) // 2 for depth, p in model.programs.items()}
    assert kept == {"full": 8, "half": 4, "quarter": 2}


def test_weight_codes():
    model = tiny_model(weight_bits=2, channels=3)
    op = next(step.op for step in trace(model.programs["full"], model.tensors) if step.op.kind == "qconv2d")
    codes = weight_codes(op, model.tensors[op.tensors["weight"]])
    assert codes.shape == (3, 3, 3, 3)
    assert codes.dtype == np.int8
    assert set(np.unique(codes)) == {-2, -1, 0, 1}
    np.testing.assert_array_equal(bits.pack((codes + 2).astype(np.uint8), 2), model.tensors[op.tensors["weight"]])


@pytest.mark.parametrize(
    "attrs",
    [
        {"inv": np.float32(1), "levels": 15},
        {"inv": 1.0, "levels": np.int64(15)},
        {"inv": 1.0, "levels": True},
        {"inv": 1, "levels": 15},
    ],
    ids=["float32", "int64", "bool", "int for float"],
)
def test_attributes_are_plain_python_scalars(attrs):
    op = Op("quantize", (IMAGE,), "codes", attrs, {"offset": "offset"})
    with pytest.raises(FieldError, match="attrs"):
        list(trace(Program((op,), "codes"), {"offset": np.zeros(3, np.float32)}))


@pytest.mark.parametrize(
    "info",
    [
        {"training": {"betas": (0.9, 0.99)}},
        {"training": {"loss": float("nan")}},
        {"training": {1: 2}},
        {"name": "\ud800"},
    ],
    ids=["tuple", "nan", "integer key", "surrogate"],
)
def test_info_that_json_cannot_hold(info):
    model = tiny_model()
    with pytest.raises(FieldError, match="info"):
        check_model(replace(model, info={**model.info, **info}))


@pytest.mark.parametrize("stages", [5, None, {}, [5], [{}, "float"]], ids=str)
def test_stages_are_a_list_of_objects(stages):
    model = tiny_model()
    check_model(replace(model, info={**model.info, "training": {"stages": [{"steps": 5}]}}))
    with pytest.raises(FieldError, match=r"info training stages: got .*, wanted a list of objects"):
        check_model(replace(model, info={**model.info, "training": {"stages": stages}}))


def test_a_transposed_view_is_refused():
    model = tiny_model(channels=3, blocks=0, depths={"full": []})
    tensors = {**model.tensors, "head.weight": model.tensors["head.weight"].T}
    with pytest.raises(PackedModelError, match="C-contiguous"):
        check_model(replace(model, tensors=tensors))


def test_too_high_a_resolution():
    shuffles = [Op("pixel_shuffle", (a,), b, {"upscale": r}) for a, b, r in [("conv", "x4", 4), ("x4", "x8", 2)]]
    conv = Op("conv2d", (IMAGE,), "conv", {}, {"weight": "w", "bias": "b"})
    tensors = {"w": np.zeros((192, 1, 1, 3), np.float32), "b": np.zeros(192, np.float32)}
    with pytest.raises(LimitError, match="resolution factor: got 8"):
        list(trace(Program((conv, *shuffles), "x8"), tensors))


def test_a_shared_tensor_is_scanned_once(monkeypatch):
    """Else a small file naming one large tensor in thousands of ops would take hours to check."""
    affines = [Op("affine", (f"v{i}",), f"v{i + 1}", {}, {"scale": "t", "offset": "t"}) for i in range(500)]
    first = Op("conv2d", (IMAGE,), "v0", {}, {"weight": "w", "bias": "b"})
    last = Op("pixel_shuffle", ("v500",), "end", {"upscale": 2})
    shapes = {"w": (12, 1, 1, 3), "b": (12,), "t": (12,)}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    calls, isfinite = [], np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda x: calls.append(x) or isfinite(x))
    check_program(Program((first, *affines, last), "end"), tensors, {"upscale": 2})
    assert len(calls) == 3


def test_readers_of_the_same_codes_agree_on_their_zero() -> None:
    model = tiny_model(blocks=1, depths={"full": [0]})
    ops = {op.output: op for op in model.programs["full"].ops}
    gain = {"gain": 1.0}
    block = [
        ops["b0.q1"],
        ops["b0.c1"],
        replace(ops["b0.c2"], inputs=("b0.q1",)),
        Op("residual", ("b0.c1", "b0.c2"), "sum", gain),
        Op("residual", ("head", "sum"), "b0", gain),
    ]
    before = [op for op in model.programs["full"].ops if not op.output.startswith("b0")]
    start = [op.output for op in before].index("head") + 1
    program = replace(model.programs["full"], ops=(*before[:start], *block, *before[start:]))
    with pytest.raises(GraphError, match="zero: got 0"):
        check_program(program, model.tensors, model.info)


def test_a_shared_tensor_counts_as_often_as_it_is_read():
    weight, mul, bias = np.zeros(1024 * 1024 * 9 // 2, np.uint8), np.ones(1024, np.float32), np.zeros(1024, np.float32)
    tensors = {"weight": weight, "mul": mul, "bias": bias, "offset": np.zeros(1024, np.float32)}
    tensors |= {"wide": np.zeros((1024, 1, 1, 3), np.float32)}
    ops, value = [Op("conv2d", ("image",), "head", {}, {"weight": "wide", "bias": "bias"})], "head"
    sizes = {"in_channels": 1024, "out_channels": 1024, "kernel": 3, "weight_bits": 4, "act_bits": 4, "zero": 0}
    for layer in range(15):
        quantizer = Op("quantize", (value,), f"codes{layer}", {"inv": 1.0, "levels": 15}, {"offset": "offset"})
        roles = {role: role for role in ("weight", "mul", "bias")}
        value = f"out{layer}"
        ops += [quantizer, Op("qconv2d", (quantizer.output,), value, sizes, roles)]
    with pytest.raises(LimitError, match=r"read from tensors or prepare: got 70\d+, wanted at most 67108864"):
        check_program(Program(tuple(ops), value), tensors, {"upscale": 2})


def test_what_attention_prepares_counts_as_well():
    """Biases of 341 heads in windows of 32 are 1.4 million values in the file, and up to 89 million in memory."""
    attrs = {"heads": 341, "window": 32, "shift": 7, "scale": 1.0}
    ops = (
        Op("pad", ("image",), "padded", {"multiple": 32}),
        Op("conv2d", ("padded",), "qkv", {}, {"weight": "wide", "bias": "bias"}),
        Op("window_attention", ("qkv",), "seen", attrs, {"position_bias": "biases"}),
    )
    tensors = {"wide": np.zeros((1023, 1, 1, 3), np.float32), "bias": np.zeros(1023, np.float32)}
    tensors |= {"biases": np.zeros((63 * 63, 341), np.float32)}
    with pytest.raises(LimitError, match=r"read from tensors or prepare: got 90\d{6}, wanted at most 67108864"):
        check_program(Program(ops, "seen"), tensors, {"upscale": 2})
