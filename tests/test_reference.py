"""The interpreter against a second one made of loops, and the corners of each rule."""

import itertools
import math

import numpy as np
import pytest
from packing.tiny import random_image, tiny_model

from quantsr import reference
from quantsr.packing import bits
from quantsr.packing.ops import OPS, weight_codes
from quantsr.packing.program import IMAGE, Op

F = np.float32


def units(x):
    """A float32 number in units of the smallest one, 2**-149: an integer."""
    numerator, denominator = float(x).as_integer_ratio()
    return (numerator << 149) // denominator


def exact_fma(a, b, c):
    """a*b + c of float32 numbers in integers, rounded half to even once."""
    exact = units(a) * units(b) + (units(c) << 149)  # in units of 2**-298
    drop = max(abs(exact).bit_length() - 24, 149)  # bits behind the last one of the result
    kept, rest = divmod(abs(exact), 1 << drop)
    kept += 2 * rest > 1 << drop or (2 * rest == 1 << drop and kept % 2)
    return F(math.copysign(math.ldexp(kept, drop - 298), exact))


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
    if op.kind in ("edge_conv2d", "edge_qconv2d"):
        if op.kind == "edge_qconv2d":
            codes = weight_codes(op, t["weight"]).astype(int) + 2 ** (op.attrs["weight_bits"] - 1)
            t["weight"] = [bits.pack(own.astype(np.uint8), op.attrs["weight_bits"]) for own in codes]
        out = np.empty((h, w, t["bias"].shape[1]), F)
        for y, z in np.ndindex(h, w):
            row = 0 if y == 0 else 2 if y == h - 1 else 1
            column = 0 if z == 0 else 2 if z == w - 1 else 1
            own = {role: array[3 * row + column] for role, array in t.items()}
            conv = Op(op.kind.removeprefix("edge_"), op.inputs, op.output, op.attrs, {role: role for role in own})
            out[y, z] = naive(conv, inputs, own)[y, z]
        return out
    if op.kind == "odd_qconv2d":
        b = op.attrs["weight_bits"]
        stored = bits.unpack(t["weight"], b, math.prod([t["mul"].size, op.attrs["kernel"] ** 2, c])).astype(int)
        attrs = {**op.attrs, "weight_bits": 4}
        t["weight"] = bits.pack((2 * (stored - 2 ** (b - 1)) + 1 + 8).astype(np.uint8), 4)
        return naive(Op("qconv2d", op.inputs, op.output, attrs, {role: role for role in t}), inputs, t)
    if op.kind in ("conv2d", "qconv2d"):
        weight = t["weight"] if op.kind == "conv2d" else weight_codes(op, t["weight"])
        outputs, side = weight.shape[:2]
        out = np.empty((h, w, outputs), F)
        for y, z, o in np.ndindex(out.shape):
            acc = 0 if op.kind == "qconv2d" else t["bias"][o]
            for ky, kx, i in np.ndindex(side, side, c):
                py, pz = y + ky - side // 2, z + kx - side // 2
                if 0 <= py < h and 0 <= pz < w:
                    v, weight_value = x[py, pz, i], weight[o, ky, kx, i]
                    if op.kind == "qconv2d":
                        acc += (int(v) - a["zero"]) * int(weight_value)
                    else:
                        acc = exact_fma(v, weight_value, acc)
            out[y, z, o] = acc if op.kind == "conv2d" else F(F(acc) * t["mul"][o]) + t["bias"][o]
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
        values = reference.run_all(program, model.tensors, random_image(3, 2))
        for op in program.ops:
            expected = naive(op, [values[name] for name in op.inputs], model.tensors)
            assert values[op.output].dtype == expected.dtype
            np.testing.assert_array_equal(values[op.output], expected, err_msg=op.output)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (2, 2), (4, 3)], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_edge_conv2d_equals_loops(size, kernel):
    rng = np.random.default_rng(0)
    op = Op("edge_conv2d", (IMAGE,), "y", {}, {"weight": "weight", "bias": "bias"})
    tensors = {"weight": rng.standard_normal((9, 2, kernel, kernel, 3)), "bias": rng.standard_normal((9, 2))}
    tensors = {name: array.astype(F) for name, array in tensors.items()}
    x = rng.standard_normal((*size, 3)).astype(F)
    np.testing.assert_array_equal(reference.step(op, [x], tensors), naive(op, [x], tensors))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (2, 2), (4, 3)], ids=str)
@pytest.mark.parametrize(("kernel", "width"), [(1, 4), (3, 8), (5, 8)])
def test_edge_qconv2d_equals_loops(size, kernel, width):
    rng = np.random.default_rng(0)
    attrs = {"in_channels": 3, "out_channels": 2, "kernel": kernel, "weight_bits": width, "act_bits": width}
    attrs["zero"] = 2 ** (width - 1)
    op = Op("edge_qconv2d", ("a",), "y", attrs, {role: role for role in ("weight", "mul", "bias")})
    stored = rng.integers(0, 2**width, (9, 2, kernel, kernel, 3)).astype(np.uint8)
    mul, bias = rng.standard_normal((2, 9, 2)).astype(F)
    tensors = {"weight": bits.pack(stored, width), "mul": mul, "bias": bias}
    a = rng.integers(0, 2**width, (*size, 3)).astype(np.uint8)
    np.testing.assert_array_equal(reference.step(op, [a], tensors), naive(op, [a], tensors))


@pytest.mark.parametrize("width", [2, 3])
def test_odd_qconv2d_equals_loops(width):
    rng = np.random.default_rng(0)
    attrs = {"in_channels": 3, "out_channels": 2, "kernel": 3, "weight_bits": width, "act_bits": 4, "zero": 5}
    op = Op("odd_qconv2d", ("a",), "y", attrs, {role: role for role in ("weight", "mul", "bias")})
    mul, bias = rng.standard_normal((2, 2)).astype(F)
    stored = rng.integers(0, 2**width, (2, 3, 3, 3)).astype(np.uint8)
    tensors = {"weight": bits.pack(stored, width), "mul": mul, "bias": bias}
    a = rng.integers(0, 16, (5, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(reference.step(op, [a], tensors), naive(op, [a], tensors))


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


def any_sums(rng, count):
    """Numbers of every size, subnormal ones included, with few, many or all bits set."""
    bits = rng.integers(0, 2**32, (3, count), dtype=np.uint32)
    bits &= rng.choice(np.array([0xFFFFFFFF, 0xFFFFF000, 0xFFC00000, 0xFF800001], np.uint32), (3, count))
    bits |= rng.choice(np.array([0, 0, 0x7FFFFF, 0xFFF], np.uint32), (3, count))
    numbers = bits.view(F)
    return np.where(np.isfinite(numbers), numbers, F(1))


def halfway_sums(rng, count):
    """a*b is a quarter, half or all of c's last place, or nearly that."""
    c = np.ldexp(rng.integers(2**23, 2**24, count) * 1.0, rng.integers(-170, 80, count)).astype(F)
    place = np.maximum(np.frexp(c)[1] - 24, -149)  # of the last bit of c
    half = np.ldexp(rng.choice([0.25, 0.5, 1.0], count), place)
    a = np.ldexp(1.0 + rng.integers(-3, 4, count) * 2.0**-23, place // 2).astype(F)
    b = (half / a * (1 + rng.integers(-3, 4, count) * 2.0**-23) * rng.choice([-1, 1], count)).astype(F)
    return a, b, c


def cancelling_sums(rng, count):
    """c is -a*b rounded, or a neighbour of it."""
    a, b = (np.ldexp(rng.uniform(1, 2, count), rng.integers(-40, 40, count)).astype(F) for _ in range(2))
    return a, b, np.nextafter(-(a * b), F(0) * a + rng.choice(np.array([0, -np.inf, np.inf], F), count))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [any_sums, halfway_sums, cancelling_sums], ids=["any", "halfway", "cancelling"])
def test_fused_multiply_add_rounds_once(make, seed):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        a, b, c = make(rng, 3000)
        got = reference.fused_multiply_add(a.astype(float), b.astype(float), c)
        expected = np.array([exact_fma(*terms) for terms in zip(a, b, c, strict=True)], F)
    np.testing.assert_array_equal(got, expected)


@np.errstate(over="ignore", invalid="ignore")
def test_fused_multiply_add_by_hand():
    tiny, largest = 2.0**-149, 2.0**128 - 2.0**104
    cases = [
        (2**-24, 1, 1, 1),  # a tie: to even
        (2**-24, 1 + 2**-23, 1, 1 + 2**-23),  # just above it
        (2**-24, 1 - 2**-24, 1 + 2**-23, 1 + 2**-23),  # just below a tie that would round up
        (2**-60, 2**-60, 1 + 2**-23, 1 + 2**-23),
        (tiny, 0.5, 0, 0),  # ties among subnormal numbers
        (tiny, 0.5, tiny, 2 * tiny),
        (2**-75, -(2**-75), tiny, 0),
        (2**-75, -(2**-75) * (1 - 2**-24), tiny, tiny),
        (2**127, 2, 0, np.inf),
        (2**127, 2, -np.inf, -np.inf),
        (2**103, 1, largest, np.inf),  # halfway between the largest number and 2**128
        (2**103 * (1 - 2**-23), 1 + 2**-23, largest, largest),
    ]
    for a, b, c, expected in cases:
        got = reference.fused_multiply_add(np.array([a], float), np.array([b], float), np.array([c], F))
        assert got.tolist() == [expected], (a, b, c)


def test_conv2d_does_not_depend_on_how_it_is_cut(monkeypatch):
    rng = np.random.default_rng(0)
    op = Op("conv2d", (IMAGE,), "y", {}, {"weight": "w", "bias": "b"})
    tensors = {"w": rng.standard_normal((5, 3, 3, 4)).astype(F), "b": rng.standard_normal(5).astype(F)}
    x = rng.standard_normal((11, 7, 4)).astype(F)
    whole = reference.step(op, [x], tensors)
    for sums in (1, 70, 200):
        monkeypatch.setattr(reference, "SUMS_AT_ONCE", sums)
        assert reference.step(op, [x], tensors).tobytes() == whole.tobytes()


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
