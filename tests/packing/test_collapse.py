"""The collapsed tail: the same picture from one convolution, edges included; and what must be left alone."""

from dataclasses import replace

import numpy as np
import pytest

from packing.tiny import random_image, tiny_model
from quantsr import reference
from quantsr.engine import Engine, available_isas
from quantsr.packing.checks import check_program, trace
from quantsr.packing.collapse import _tail, collapse_tail, kernels
from quantsr.packing.program import IMAGE, Op, PackedModel, Program
from quantsr.packing.reach import receptive_radius

SIZES = [(2, 2), (2, 3), (3, 5), (5, 2), (9, 5), (3, 9)]
UPSCALES = [2, 3, 4]


def exact(op, x, tensors):
    """An op of the tail in float64."""
    t = {role: tensors[name].astype(float) for role, name in op.tensors.items()}
    if op.kind == "conv2d":
        return reference._conv(x, t["weight"]) + t["bias"]
    if op.kind == "affine":
        return x * t["scale"] + t["offset"]
    return reference.step(op, [x], tensors)


def exact_collapsed(weight, bias, x):
    """edge_conv2d in float64: every class everywhere, then the pixels of each class from its own picture."""
    every = [reference._conv(x, w) + b for w, b in zip(weight, bias, strict=True)]
    out = np.empty_like(every[0])
    rows, columns = ([0] + [1] * (n - 2) + [2] for n in x.shape[:2])
    for y, z in np.ndindex(x.shape[:2]):
        out[y, z] = every[3 * rows[y] + columns[z]][y, z]
    return out


@pytest.mark.parametrize("upscale", UPSCALES)
def test_algebra_in_float64(upscale):
    model = tiny_model(channels=8, blocks=0, depths={"full": []}, upscale=upscale)
    chain = _tail(model.programs["full"], model.tensors)
    assert chain[0].op.output == "up0"
    weight, bias = kernels(chain, model.tensors)
    assert weight.shape == (9, 3 * upscale**2, 5, 5, 8)
    for size in SIZES:
        x = np.random.default_rng(0).standard_normal((*size, 8))
        wanted = x
        for step in chain:
            wanted = exact(step.op, wanted, model.tensors)
        shuffle = Op("pixel_shuffle", ("x",), "y", {"upscale": upscale})
        got = reference.step(shuffle, [exact_collapsed(weight, bias, x)], {})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("upscale", UPSCALES)
def test_program(upscale):
    model = tiny_model(channels=8, upscale=upscale)
    for plain in model.programs.values():
        program, tensors = collapse_tail(plain, model.tensors)
        assert [op.kind for op in program.ops[-3:]] == ["residual", "edge_conv2d", "pixel_shuffle"]
        check_program(program, tensors, model.info)
        used = {name for op in program.ops for name in op.tensors.values()}
        assert tensors.keys() == used
        assert receptive_radius(program, tensors) == receptive_radius(plain, model.tensors)
        for size in SIZES:
            image = random_image(*size)
            wanted = reference.run(plain, model.tensors, image)
            got = reference.run(program, tensors, image)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("upscale", UPSCALES)
@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 5), (7, 1), (9, 14)], ids=str)
def test_engine(upscale, size):
    model = tiny_model(channels=8, blocks=1, depths={"full": [0]}, upscale=upscale)
    image = random_image(*size)
    plain = model.programs["full"]
    wanted = reference.run(plain, model.tensors, image)
    program, tensors = collapse_tail(plain, model.tensors) if min(size) > 1 else (plain, model.tensors)
    same = reference.run(program, tensors, image).tobytes()
    for isa in available_isas():
        for threads in (1, 2):
            engine = Engine(model, threads=threads, isa=isa)
            got = engine(image)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
            assert got.tobytes() == same  # one order of float operations, with 8 channels
            assert engine(image, tile=5).tobytes() == same


def test_engine_shows_it():
    steps = Engine(tiny_model(channels=8, upscale=4), isa="ref").describe()
    assert steps[-2].startswith("edge_conv2d 5x5 8->48: ")
    assert steps[-1] == "pixel_shuffle"


@pytest.mark.parametrize("upscale", UPSCALES)
def test_a_direct_upsampler_is_left_alone(upscale):
    model = tiny_model(channels=8, upscale=upscale, upsampler="direct")
    assert collapse_tail(model.programs["full"], model.tensors)[0] is model.programs["full"]


@pytest.mark.parametrize("before", ["last", "shuffle0", "shuffle1"])
def test_an_activation_between_ends_the_tail(before):
    """At x4 the last stage may still be collapsed if the activation comes earlier."""
    model = tiny_model(channels=8, upscale=4)
    plain = model.programs["full"]
    at = next(i for i, op in enumerate(plain.ops) if op.output == before)
    relu = Op("relu", plain.ops[at].inputs, "active")
    ops = (*plain.ops[:at], relu, replace(plain.ops[at], inputs=("active",)), *plain.ops[at + 1 :])
    program, tensors = collapse_tail(Program(ops, plain.output), model.tensors)
    assert relu in program.ops
    assert [op.kind for op in program.ops].count("pixel_shuffle") == 2
    if before in ("last", "shuffle1"):
        assert program.ops == ops
    else:
        image = random_image(6, 5)
        wanted = reference.run(Program(ops, plain.output), model.tensors, image)
        np.testing.assert_allclose(reference.run(program, tensors, image), wanted, rtol=0, atol=1e-5)


def conv(name, value, weight):
    return Op("conv2d", (value,), name, {}, {"weight": weight, "bias": f"{weight}.bias"})


def chain_model(*layers):
    """image -> layers: (kernel, outputs) for a convolution, an upscale for a shuffle."""
    rng = np.random.default_rng(0)
    ops, tensors, value, channels = [], {}, IMAGE, 3
    for i, layer in enumerate(layers):
        if isinstance(layer, int):
            ops.append(Op("pixel_shuffle", (value,), f"v{i}", {"upscale": layer}))
            channels //= layer**2
        else:
            kernel, outputs = layer
            shape = (outputs, kernel, kernel, channels)
            tensors[f"t{i}"] = (rng.standard_normal(shape) / np.sqrt(kernel**2 * channels)).astype(np.float32)
            tensors[f"t{i}.bias"] = rng.standard_normal(outputs).astype(np.float32)
            ops.append(conv(f"v{i}", value, f"t{i}"))
            channels = outputs
        value = f"v{i}"
    return PackedModel({}, {"full": Program(tuple(ops), value)}, tensors)


COLLAPSED = [
    ("all of it", [(3, 64), 2, (3, 3)], 2),
    ("1x1 first", [(1, 64), 2, (3, 3)], 2),
    ("1x1 only", [(1, 64), 2, (1, 3)], 2),
    ("5x5 behind", [(3, 64), 2, (5, 3)], 2),
    ("not the first of two convolutions at low resolution", [(3, 16), (3, 64), 2, (3, 3)], 3),
    ("shuffle last", [(3, 64), 2, (3, 12), 2], 2),
]


@pytest.mark.parametrize(("layers", "left"), [case[1:] for case in COLLAPSED], ids=[case[0] for case in COLLAPSED])
def test_other_chains(layers, left):
    model = chain_model(*layers)
    program, tensors = collapse_tail(model.programs["full"], model.tensors)
    assert [op.kind for op in program.ops] == ["conv2d", "edge_conv2d", "pixel_shuffle"][-left:]
    for size in SIZES:
        image = random_image(*size)
        wanted = reference.run(model.programs["full"], model.tensors, image)
        np.testing.assert_allclose(reference.run(program, tensors, image), wanted, rtol=0, atol=1e-5)
        whole = Engine(model)(image)
        np.testing.assert_array_equal(whole, reference.run(program, tensors, image))
        np.testing.assert_array_equal(Engine(model)(image, tile=1), whole)


@pytest.mark.parametrize(
    "layers",
    [
        [(3, 12), (3, 12), 2],
        [(5, 64), 2, (3, 3)],
        [(3, 64), 2, (5, 16), (3, 3)],
        [(3, 4), 2, (3, 3)],
    ],
    ids=["no convolution behind", "7x7", "sees two pixels far", "more multiply-adds"],
)
def test_chains_left_alone(layers):
    model = chain_model(*layers)
    assert collapse_tail(model.programs["full"], model.tensors)[0] is model.programs["full"]


def test_a_value_read_twice_ends_the_tail():
    model = tiny_model(channels=8, upscale=2)
    plain = model.programs["full"]
    last, mean = plain.ops[-2:]
    both = Op("residual", ("last", "add_mean"), "both", {"gain": 1.0})
    program = Program((*plain.ops, both), "both")
    assert last.output == "last" and mean.output == "add_mean"
    assert collapse_tail(program, model.tensors)[0] is program


def test_a_tensor_named_like_the_collapsed_one():
    model = tiny_model(channels=8, upscale=2)
    plain = model.programs["full"]
    names = {"weight": "collapsed.weight", "bias": "head.bias"}
    ops = tuple(replace(op, tensors=names) if op.output == "head" else op for op in plain.ops)
    tensors = {**model.tensors, "collapsed.weight": model.tensors["head.weight"]}
    program, collapsed = collapse_tail(Program(ops, plain.output), tensors)
    assert collapsed["collapsed.weight"] is tensors["head.weight"]
    list(trace(program, collapsed))
