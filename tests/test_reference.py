"""The interpreter against a second one made of loops, and the corners of each rule."""

import itertools
import math

import numpy as np
import pytest
from packing.tiny import random_image, tiny_model

from quantsr import reference
from quantsr.packing.ops import IMAGE, OPS, Op, weight_codes

F = np.float32


def naive(op, inputs, tensors):
    """One op by loops over scalars; every float32 step is written out."""
    t = {role: tensors[name] for role, name in op.tensors.items()}
    x = inputs[0]
    h, w, c = x.shape
    a = op.attrs
    if op.kind == "pixel_shuffle":
        r = a["upscale"]
        out = np.empty((h * r, w * r, c // r**2), F)
        for y, z, k, i, j in itertools.product(range(h), range(w), range(c // r**2), range(r), range(r)):
            out[y * r + i, z * r + j, k] = x[y, z, k * r * r + i * r + j]
        return out
    if op.kind in ("conv2d", "qconv2d"):
        weight = t["weight"] if op.kind == "conv2d" else weight_codes(op, t["weight"])
        zero = a.get("zero", 0)
        number = float if op.kind == "conv2d" else int
        outputs, side = weight.shape[:2]
        out = np.empty((h, w, outputs), F)
        for y, z, o in np.ndindex(out.shape):
            terms = []
            for ky, kx, i in np.ndindex(side, side, c):
                py, pz = y + ky - side // 2, z + kx - side // 2
                if 0 <= py < h and 0 <= pz < w:
                    terms.append((number(x[py, pz, i]) - zero) * number(weight[o, ky, kx, i]))
            if op.kind == "conv2d":
                out[y, z, o] = F(math.fsum([*terms, float(t["bias"][o])]))
            else:
                out[y, z, o] = F(F(sum(terms)) * t["mul"][o]) + t["bias"][o]
        return out
    out = np.empty(x.shape, np.uint8 if op.kind == "quantize" else F)
    for at in np.ndindex(x.shape):
        v, k = x[at], at[2]
        if op.kind == "affine":
            out[at] = F(v * t["scale"][k]) + t["offset"][k]
        elif op.kind == "quantize":
            scaled = F(v * F(a["inv"])) + t["offset"][k]
            out[at] = round(min(max(float(scaled), 0.0), float(a["levels"])))  # Python rounds halves to even
        elif op.kind == "relu":
            out[at] = max(v, F(0))
        else:
            assert op.kind == "residual"
            out[at] = F(v * F(a["gain"])) + inputs[1][at]
    return out


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize(("weight_bits", "act_bits", "kernel"), [(2, 2, 3), (3, 3, 1), (4, 4, 3), (2, 4, 1)])
def test_equals_loops(weight_bits, act_bits, kernel, upscale):
    model = tiny_model(
        channels=3,
        blocks=2,
        weight_bits=weight_bits,
        act_bits=act_bits,
        kernel=kernel,
        upscale=upscale,
        upsampler="direct",
    )
    for program in model.programs.values():
        values = reference.run_all(program, model.tensors, random_image(4, 3))
        for op in program.ops:
            expected = naive(op, [values[name] for name in op.inputs], model.tensors)
            assert values[op.output].dtype == expected.dtype
            if op.kind == "conv2d":  # float64 sums in another order: at most the last bit of the one rounding
                np.testing.assert_array_almost_equal_nulp(values[op.output], expected, 1)
            else:
                np.testing.assert_array_equal(values[op.output], expected, err_msg=op.output)


def test_every_kind_has_its_step():
    assert reference.STEPS.keys() == OPS.keys()


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_run_is_the_last_of_run_all(depth):
    model = tiny_model(upscale=4)
    program, image = model.programs[depth], random_image(5, 6)
    every = reference.run_all(program, model.tensors, image)
    result = reference.run(program, model.tensors, image)
    assert result.shape == (20, 24, 3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, every[program.output])


def quantize(x, *, inv=1.0, levels=15, offset=0.0):
    op = Op("quantize", (IMAGE,), "q", {"inv": inv, "levels": levels}, {"offset": "offset"})
    x = np.asarray(x, F).reshape(1, -1, 1)
    return reference.step(op, [x], {"offset": np.array([offset], F)}).ravel().tolist()


def test_quantize_rounds_halves_to_even():
    assert quantize(np.arange(16) + 0.5) == [0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 15]
    assert quantize([-3.5, -2.5, -0.5, 0.5], offset=8.0) == [4, 6, 8, 8]
    assert quantize([1, 3, 5], inv=0.5, levels=3) == [0, 2, 2]
    assert quantize([-1, -3, -5], inv=-0.5, levels=3) == [0, 2, 2]


def test_quantize_clamps_before_it_converts():
    extremes = [-np.inf, np.finfo(F).min, -0.0, np.finfo(F).tiny, 15.4, 1e10, np.finfo(F).max, np.inf]
    assert quantize(extremes) == [0, 0, 0, 0, 15, 15, 15, 15]
    assert quantize([np.nan, np.inf, 1e30], inv=1e30) == [0, 15, 15]


def test_quantize_rounds_each_float_step():
    """x*inv is a little above 1 and rounds to 1, so adding -0.5 gives a half; a fused operation would give more."""
    x, inv = F(1 + 2**-23), F(1 - 2**-24)
    assert x * inv == 1
    assert F(float(x) * float(inv) - 0.5) > 0.5
    assert quantize([x], inv=float(inv), offset=-0.5) == [0]


def test_relu_of_nan_and_minus_zero():
    out = reference.step(Op("relu", (IMAGE,), "r"), [np.array([[[np.nan, -0.0, -1, 2]]], F)], {})
    assert out.ravel().tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("zero", [0, 8])
def test_accumulate_at_the_extremes(zero):
    """1024 channels of the largest codes: exact in int32 and float32."""
    codes = np.full((3, 3, 1024), 15, np.uint8)
    weights = np.full((2, 3, 3, 1024), -8, np.int8)
    weights[1] = 7
    acc = reference.accumulate(codes, weights, zero)
    assert acc.dtype == np.int32
    assert acc[1, 1].tolist() == [(15 - zero) * w * 9 * 1024 for w in (-8, 7)]
    assert acc[0, 0].tolist() == [(15 - zero) * w * 4 * 1024 for w in (-8, 7)]  # a corner sees four pixels
    assert np.array_equal(acc.astype(F).astype(np.int64), acc)


def test_padding_is_code_zero():
    """Signed codes: an image of `zero` codes gives 0 everywhere, the border included."""
    weights = np.random.default_rng(0).integers(-8, 8, (4, 3, 3, 5)).astype(np.int8)
    assert not reference.accumulate(np.full((4, 4, 5), 8, np.uint8), weights, 8).any()
    assert reference.accumulate(np.full((4, 4, 5), 8, np.uint8), weights, 0).any()


def test_pixel_shuffle_channel_order():
    x = np.arange(8, dtype=F).reshape(1, 1, 8)
    out = reference.step(Op("pixel_shuffle", (IMAGE,), "s", {"upscale": 2}), [x], {})
    assert out[..., 0].tolist() == [[0, 1], [2, 3]]
    assert out[..., 1].tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_small_images(shape):
    model = tiny_model(upscale=3)
    result = reference.run(model.programs["full"], model.tensors, random_image(*shape))
    assert result.shape == (3 * shape[0], 3 * shape[1], 3)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 1), F), np.zeros((4, 4), F), np.zeros((0, 4, 3), F)]
)
def test_wrong_images(image):
    model = tiny_model()
    with pytest.raises(ValueError, match="wanted float32"):
        reference.run(model.programs["full"], model.tensors, image)
