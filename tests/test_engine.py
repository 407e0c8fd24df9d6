"""The native engine against plain numpy, against `reference`, and against itself."""

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantsr import _native, reference
from quantsr.engine import Engine, available_isas, native_op, qconv_kernel_names
from quantsr.packing import bits
from quantsr.packing.checks import trace
from quantsr.packing.program import Op, PackedModel, Program

ISAS = available_isas()
KERNELS = [(isa, kernel) for isa in ISAS for kernel in qconv_kernel_names(isa)]
SIZES = [(1, 1), (1, 2), (3, 5), (6, 12), (13, 18), (22, 31), (67, 35)]
DIRECT = 31  # a conv2d of at most so many input channels is summed in the order of the reference
FILLS = ["random", "min", "max", "extremes", "mostly_min", "mostly_max"]


def fill(rng, kind, low, high, shape):
    """Integers in low..high; the patterns drive sums to where overflow would show."""
    if kind == "random":
        return rng.integers(low, high + 1, shape)
    share = {"min": 0.0, "max": 1.0, "extremes": 0.5, "mostly_min": 0.03, "mostly_max": 0.97}[kind]
    return np.where(rng.random(shape) < share, high, low)


def run_native(ops, output, image, isa, kernel=""):
    engine = _native.Engine(ops, output, image.shape[2], 1, isa, kernel)
    h, w, _ = image.shape
    out = np.empty((h * engine.upscale, w * engine.upscale, engine.output_channels), np.float32)
    engine.run(np.ascontiguousarray(image, np.float32), out)
    return out


def integer_conv(codes, weights, zero):
    """sum (a - zero) * w with padding a = zero, tap by tap in int64."""
    (h, w, _), (o, k, _, _) = codes.shape, weights.shape
    padded = np.full((h + k - 1, w + k - 1, codes.shape[2]), zero, np.int64)
    padded[k // 2 : k // 2 + h, k // 2 : k // 2 + w] = codes
    acc = np.zeros((h, w, o), np.int64)
    for ky, kx in itertools.product(range(k), range(k)):
        window = padded[ky : ky + h, kx : kx + w] - zero
        # float64 products and sums of these integers are exact
        acc += (window.astype(float) @ weights[:, ky, kx].T.astype(float)).astype(int)
    return acc


def qconv_ops(weights, weight_bits, act_bits, zero, mul=None, bias=None):
    """image -> codes -> qconv2d; the quantizer takes integers as they are."""
    o, k, _, i = weights.shape
    attrs = {"in_channels": i, "out_channels": o, "kernel": k, "weight_bits": weight_bits, "act_bits": act_bits}
    tensors = {
        "weight": weights.astype(np.int8),
        "mul": np.ones(o, np.float32) if mul is None else mul,
        "bias": np.zeros(o, np.float32) if bias is None else bias,
    }
    levels = {"inv": 1.0, "levels": 2.0**act_bits - 1}
    return [
        ("quantize", ["image"], "a", levels, {"offset": np.zeros(i, np.float32)}),
        ("qconv2d", ["a"], "y", {**attrs, "zero": zero}, tensors),
    ]


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize(
    ("act_bits", "levels", "zero"), [(2, 2, 1), (3, 6, 3), (4, 14, 7), (4, 15, 3), (4, 9, 9), (8, 200, 131)]
)
@pytest.mark.parametrize("kernel", [1, 3])
def test_any_code_may_stand_for_zero(kernel_row, act_bits, levels, zero, kernel):
    rng = np.random.default_rng(7)
    codes = fill(rng, "random", 0, 2**act_bits - 1, (9, 8, 64))
    weights = fill(rng, "random", -8, 7, (33, kernel, kernel, 64))
    quantizer, conv = qconv_ops(weights, 4, act_bits, zero)
    quantizer[3]["levels"] = float(levels)
    got = run_native([quantizer, conv], "y", codes, *kernel_row)
    np.testing.assert_array_equal(got, integer_conv(np.minimum(codes, levels), weights, zero))


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("weight_bits", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
def test_odd_weights_give_the_reference(kernel_row, weight_bits, kernel):
    rng = np.random.default_rng(8)
    attrs = {"in_channels": 40, "out_channels": 33, "kernel": kernel}
    attrs |= {"weight_bits": weight_bits, "act_bits": 4, "zero": 8}
    roles = {role: role for role in ("weight", "mul", "bias")}
    conv = Op("odd_qconv2d", ("a",), "y", attrs, roles)
    tensors = {
        "offset": np.zeros(40, np.float32),
        "weight": bits.pack(rng.integers(0, 2**weight_bits, (33, kernel, kernel, 40)).astype(np.uint8), weight_bits),
        "mul": rng.standard_normal(33).astype(np.float32),
        "bias": rng.standard_normal(33).astype(np.float32),
    }
    quantizer = Op("quantize", ("image",), "a", {"inv": 1.0, "levels": 15}, {"offset": "offset"})
    codes = rng.integers(0, 16, (9, 8, 40)).astype(np.float32)
    got = run_native([native_op(op, tensors) for op in (quantizer, conv)], "y", codes, *kernel_row)
    np.testing.assert_array_equal(got, reference.step(conv, [codes.astype(np.uint8)], tensors))


def assert_exact(rng, kernel_row, size, channels, outputs, kernel, weight_bits, act_bits, signed, a_fill, w_fill):
    zero = 2 ** (act_bits - 1) if signed else 0
    half = 2 ** (weight_bits - 1)
    codes = fill(rng, a_fill, 0, 2**act_bits - 1, (*size, channels))
    weights = fill(rng, w_fill, -half, half - 1, (outputs, kernel, kernel, channels))
    got = run_native(qconv_ops(weights, weight_bits, act_bits, zero), "y", codes, *kernel_row)
    np.testing.assert_array_equal(got, integer_conv(codes, weights, zero).astype(np.float32))


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("weight_bits", [2, 3, 4])
@pytest.mark.parametrize("act_bits", [2, 3, 4])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_qconv_sums_are_exact_for_all_extremes(kernel_row, weight_bits, act_bits, signed):
    rng = np.random.default_rng(1)
    for a_fill, w_fill in itertools.product(FILLS, FILLS):
        assert_exact(rng, kernel_row, (5, 8), 64, 64, 3, weight_bits, act_bits, signed, a_fill, w_fill)


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("widths", [(8, 8), (8, 4), (4, 8), (2, 8)], ids=str)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_qconv_sums_of_8_bits_are_exact_for_all_extremes(kernel_row, widths, signed):
    """Where they pass 2**24, their one rounding to float32 is right too."""
    rng = np.random.default_rng(1)
    for (a_fill, w_fill), (size, channels, outputs) in itertools.product(
        itertools.product(FILLS, FILLS), [((5, 8), 64, 33), ((2, 3), 520, 20)]
    ):
        assert_exact(rng, kernel_row, size, channels, outputs, 3, *widths, signed, a_fill, w_fill)


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_qconv_sums_are_exact_for_all_sizes(kernel_row, kernel, size):
    rng = np.random.default_rng(2)
    for channels, outputs in [(1, 1), (3, 17), (16, 16), (20, 48), (64, 64), (60, 33), (65, 100)]:
        for width in (4, 8):
            assert_exact(rng, kernel_row, size, channels, outputs, kernel, width, width, True, "random", "random")


EDGE_SIZES = [(1, 1), (1, 9), (2, 2), (7, 1), (3, 5), (13, 18), (11, 70)]


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_edge_qconv_equals_the_reference(kernel_row, kernel):
    rng = np.random.default_rng(16)
    for size, (channels, outputs) in itertools.product(EDGE_SIZES, [(1, 3), (20, 48), (64, 33)]):
        weights = rng.integers(-128, 128, (9, outputs, kernel, kernel, channels))
        mul, bias = rng.standard_normal((2, 9, outputs)).astype(np.float32)
        codes = rng.integers(0, 256, (*size, channels))
        quantize, (_, *qconv) = qconv_ops(weights[0], 8, 8, 128)
        qconv[-1] = {"weight": weights.astype(np.int8), "mul": mul, "bias": bias}
        got = run_native([quantize, ("edge_qconv2d", *qconv)], "y", codes, *kernel_row)
        op = Op("edge_qconv2d", ("a",), "y", qconv[2], {role: role for role in ("weight", "mul", "bias")})
        tensors = {"weight": bits.pack((weights + 128).astype(np.uint8), 8), "mul": mul, "bias": bias}
        np.testing.assert_array_equal(got, reference.step(op, [codes.astype(np.uint8)], tensors))


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("channels", [128, 200, 520])
def test_qconv_sums_do_not_overflow_in_deep_layers(kernel_row, channels):
    rng = np.random.default_rng(3)
    for kernel, a_fill, w_fill in itertools.product([1, 3], ["max", "min"], ["min", "max", "mostly_min"]):
        assert_exact(rng, kernel_row, (3, 4), channels, 20, kernel, 4, 4, True, a_fill, w_fill)


def two_inputs(total, apart):
    """Weights of one output whose transform at the first Winograd points, all 1, sums to -total over two inputs that
    are `apart`; elsewhere zeros."""
    weights = np.zeros((1, 3, 3, 64), int)
    weights[..., 0] = -8
    weights[..., apart].flat[: (total - 72) // 8] = -8
    weights[..., apart].flat[8] = -((total - 72) % 8)
    return weights


@pytest.mark.skipif("avx2" not in ISAS, reason="needs AVX2")
@pytest.mark.parametrize(("total", "kernel"), [(136, "f4x4_avx2"), (137, "f2x2_avx2")])
def test_a_layer_whose_products_saturate_falls_back(total, kernel):
    # 16 bits hold 240 * 136, but not 240 * 137; 240 is the largest transformed code.
    weights = two_inputs(total, 1)
    ops = qconv_ops(weights, 4, 4, 8)
    engine = _native.Engine(ops, "y", 64, 1, "avx2", "f4x4_avx2")
    assert engine.describe() == ["quantize", f"qconv2d 3x3 64->1 W4A4: {kernel}"]


@pytest.mark.skipif("avx2" not in ISAS, reason="needs AVX2")
@pytest.mark.parametrize("apart", [1, 4, 8, 16, 32])  # in the same step or the last added with it
@pytest.mark.parametrize("total", [136, 137])
@pytest.mark.parametrize("a_fill", FILLS)
def test_sums_at_the_edge_of_16_bits_are_exact(apart, total, a_fill):
    rng = np.random.default_rng(6)
    weights, codes = two_inputs(total, apart), fill(rng, a_fill, 0, 15, (9, 13, 64))
    for kernel in ["f4x4_avx2", "f2x2_avx2"]:
        got = run_native(qconv_ops(weights, 4, 4, 8), "y", codes, "avx2", kernel)
        np.testing.assert_array_equal(got, integer_conv(codes, weights, 8))


def conv_ops(rng, channels, outputs, kernel):
    weight = rng.standard_normal((outputs, kernel, kernel, channels)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    return [("conv2d", ["image"], "y", {}, {"weight": weight, "bias": bias})], weight, bias


def error_bound(image, weight, bias):
    """Of conv2d's float32 result (docs/numerics.md): a rounding per term, each of at most the sum of magnitudes."""
    image, weight = abs(image).astype(float), weight.astype(float)
    _, k, _, channels = weight.shape
    if not _native.conv2d_in_cells(k, channels):
        return (k * k * channels + 1) * 2**-24 * (reference._conv(image, abs(weight)) + abs(bias))
    return (channels + 16) * 2**-24 * (cell_magnitudes(image, weight) + abs(bias))


def cell_magnitudes(image, weight):
    """What Winograd cells of 4 x 4 outputs add up if nothing cancels: every coefficient by its magnitude."""
    points = [0, 0.75, -0.75, 1.5, -1.5] if weight.shape[1] == 3 else [0, 0.5, -0.5, 1, -1, 2, -2]
    o, k, _, _ = weight.shape
    (h, w, _), side = image.shape, k + 3
    others = [np.delete(points, j) for j in range(side - 1)]
    inputs = np.array([[*np.poly(q)[::-1], 0] for q in others] + [np.poly(points)[::-1]])
    divisors = [np.prod(p - q) for p, q in zip(points, others, strict=True)]
    taps = np.array(
        [[p**i / d for i in range(k)] for p, d in zip(points, divisors, strict=True)] + [[0] * (k - 1) + [1]]
    )
    outputs = np.array([[p**i for p in points] + [i == 3] for i in range(4)])
    u = abs(np.einsum("pa,oabc,qb->pqco", taps, weight, taps))
    result = np.zeros((-(-h // 4) * 4, -(-w // 4) * 4, o))
    padded = np.pad(image, ((k // 2, k + 3), (k // 2, k + 3), (0, 0)))
    for y, x in itertools.product(range(0, h, 4), range(0, w, 4)):
        v = np.einsum("pa,abc,qb->pqc", abs(inputs), padded[y : y + side, x : x + side], abs(inputs))
        sums = np.einsum("pqc,pqco->pqo", v, u)
        result[y : y + 4, x : x + 4] = np.einsum("ip,pqo,jq->ijo", abs(outputs), sums, abs(outputs))
    return result[:h, :w]


CONV2D_SHAPES = [(1, 1), (3, 64), (17, 30), (20, 81), (32, 1), (33, 70), (64, 48), (70, 64)]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (4, 8), (13, 19), (6, 101), (25, 40)], ids=str)
def test_conv2d_gives_the_same_bytes_everywhere_and_is_close_to_the_sum(kernel, size):
    rng = np.random.default_rng(4)
    for channels, outputs in CONV2D_SHAPES:
        ops, weight, bias = conv_ops(rng, channels, outputs, kernel)
        image = rng.standard_normal((*size, channels)).astype(np.float32)
        results = [run_native(ops, "y", image, isa) for isa in ISAS]
        assert len({r.tobytes() for r in results}) == 1
        exact = reference._conv(image.astype(float), weight.astype(float)) + bias
        assert (abs(results[0] - exact) <= error_bound(image, weight, bias)).all()


@pytest.mark.parametrize(("kernel", "times"), [(3, 2.5), (5, 6)])
def test_cells_of_outputs_round_little_more_than_single_outputs(kernel, times):
    """Root mean square error, against that of summing the products one by one in float32."""
    rng = np.random.default_rng(11)
    ops, weight, bias = conv_ops(rng, 64, 8, kernel)
    image = rng.standard_normal((32, 32, 64)).astype(np.float32)
    exact = reference._conv(image.astype(float), weight.astype(float)) + bias
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(image, ((2, 2), (2, 2), (0, 0))), (kernel, kernel), (0, 1)
    )
    windows = windows[2 - kernel // 2 :, 2 - kernel // 2 :][:32, :32].transpose(0, 1, 3, 4, 2)
    one_by_one = np.broadcast_to(bias, exact.shape)
    for tap in np.ndindex(kernel, kernel, 64):
        term = windows[:, :, *tap, None].astype(float) * weight[:, *tap].astype(float)
        one_by_one = (one_by_one + term).astype(np.float32)
    error = np.sqrt(np.mean((run_native(ops, "y", image, ISAS[-1]) - exact) ** 2))
    assert error <= times * np.sqrt(np.mean((one_by_one - exact) ** 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "codes only"])
def test_ops_fused_into_cells_of_outputs(isa, kernel, stored):
    rng = np.random.default_rng(12)
    conv, _, _ = conv_ops(rng, 36, 36, kernel)
    image = rng.standard_normal((11, 23, 36)).astype(np.float32)
    eye = np.eye(36).reshape(36, 1, 1, 36)
    ops = [*conv, ("relu", ["y"], "r", {}, {}), ("residual", ["image", "r"], "s", {"gain": 0.5}, {})]
    ops += [(kind, [{"image": "s"}.get(x, x) for x in ins], {"y": "z"}.get(out, out), attrs, tensors)
            for kind, ins, out, attrs, tensors in qconv_ops(eye, 4, 4, 0)]  # fmt: skip
    if stored:
        ops += [("residual", ["s", "z"], "t", {"gain": 0.25}, {})]
    s = image * np.float32(0.5) + np.maximum(run_native(conv, "y", image, isa), 0)
    codes = np.rint(np.clip(s, 0, 15))
    wanted = s * np.float32(0.25) + codes if stored else codes
    np.testing.assert_array_equal(run_native(ops, ops[-1][2], image, isa), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("inv", [1.0, 0.5])
@pytest.mark.parametrize("offset", [0.0, 0.25])
@pytest.mark.parametrize("twice", [False, True], ids=["read once", "read twice"])
def test_an_affine_and_a_quantizer_behind_a_convolution(isa, inv, offset, twice):
    """Fused where the quantizer's steps are 1; the same bytes as the ops one by one either way."""
    rng = np.random.default_rng(17)
    conv, _, _ = conv_ops(rng, 5, 21, 3)
    image = rng.standard_normal((7, 13, 5)).astype(np.float32)
    scale, shift = (rng.standard_normal(21).astype(np.float32) * np.float32(40) for _ in range(2))
    ops = [
        *conv,
        ("affine", ["y"], "s", {}, {"scale": scale, "offset": shift}),
        ("quantize", ["s"], "a", {"inv": inv, "levels": 255}, {"offset": np.full(21, offset, np.float32)}),
        ("qconv2d", ["a"], "z", *qconv_ops(np.eye(21).reshape(21, 1, 1, 21), 8, 8, 0)[1][3:]),
    ]
    y = run_native(conv, "y", image, "ref")
    codes = np.rint(np.clip((y * scale + shift) * np.float32(inv) + np.float32(offset), 0, 255))
    wanted = y * np.float32(0.5) + codes if twice else codes
    if twice:
        ops.append(("residual", ["y", "z"], "t", {"gain": 0.5}, {}))
    np.testing.assert_array_equal(run_native(ops, ops[-1][2], image, isa), wanted)
    fused = _native.Engine(ops, ops[-1][2], 5, 1, isa).describe()[0].startswith("conv2d 3x3 5->21 + affine + quantize")
    assert fused == (inv == 1 and offset == 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [1, 3, DIRECT])
def test_conv2d_of_few_channels_equals_the_reference(isa, kernel, channels):
    rng = np.random.default_rng(5)
    for outputs, size in [(1, (1, 1)), (17, (2, 7)), (64, (5, 13)), (81, (4, 3))]:
        ops, weight, bias = conv_ops(rng, channels, outputs, kernel)
        image = rng.standard_normal((*size, channels)).astype(np.float32)
        op = Op("conv2d", ("image",), "y", {}, {"weight": "w", "bias": "b"})
        expected = reference.step(op, [image], {"w": weight, "b": bias})
        assert run_native(ops, "y", image, isa).tobytes() == expected.tobytes()


# --- whole programs ---


class Builder:
    """Grows a random program op by op; every op reads values that exist, often the last one."""

    def __init__(self, rng, deepest_conv2d):
        self.rng, self.deepest_conv2d = rng, deepest_conv2d  # most input channels
        self.ops, self.tensors, self.channels, self.free = [], {}, {"image": 3}, ["image"]

    def floats(self, count, scale=1.0, shift=0.0):
        name = f"t{len(self.tensors)}"
        self.tensors[name] = (self.rng.standard_normal(count) * scale + shift).astype(np.float32)
        return name

    def add(self, kind, inputs, channels, attrs=None, tensors=None):
        name = f"v{len(self.ops)}"
        self.ops.append(Op(kind, tuple(inputs), name, attrs or {}, tensors or {}))
        self.channels[name] = channels
        self.free = [v for v in self.free if v not in inputs] + [name]
        return name

    def qconv(self, x, outputs, edges=False):
        channels, kernel = self.channels[x], int(self.rng.choice([1, 3, 5] if edges else [1, 3]))
        classes = (9,) if edges else ()
        wb, ab = (int(b) for b in self.rng.choice([2, 3, 4, 8], 2))
        zero = int(self.rng.choice([0, 2 ** (ab - 1)]))
        inv = float(np.float32(self.rng.choice([-1, 1]) * self.rng.uniform(0.5, 4)))
        offset = self.floats(channels, 0.5, zero)
        a = self.add("quantize", [x], channels, {"inv": inv, "levels": 2**ab - 1}, {"offset": offset})
        self.free.remove(a)
        codes = self.rng.integers(0, 2**wb, (*classes, outputs, kernel, kernel, channels)).astype(np.uint8)
        packed = f"t{len(self.tensors)}"
        self.tensors[packed] = bits.pack(codes, wb)
        attrs = {"in_channels": channels, "out_channels": outputs, "kernel": kernel}
        attrs |= {"weight_bits": wb, "act_bits": ab, "zero": zero}
        tensors = {"weight": packed}
        tensors |= {"mul": self.floats((*classes, outputs), 0.02), "bias": self.floats((*classes, outputs))}
        return self.add("edge_qconv2d" if edges else "qconv2d", [a], outputs, attrs, tensors)

    def conv2d(self, x, outputs):
        kernel = int(self.rng.choice([1, 3, 5]))
        weight = self.floats((outputs, kernel, kernel, self.channels[x]), 0.1)
        return self.add("conv2d", [x], outputs, {}, {"weight": weight, "bias": self.floats(outputs)})

    def edge_conv2d(self, x, outputs):
        kernel = int(self.rng.choice([1, 3, 5]))
        weight = self.floats((9, outputs, kernel, kernel, self.channels[x]), 0.1)
        return self.add("edge_conv2d", [x], outputs, {}, {"weight": weight, "bias": self.floats((9, outputs))})

    def residual(self, skip, branch):
        gain = float(np.float32(self.rng.uniform()))
        return self.add("residual", [skip, branch], self.channels[skip], {"gain": gain})

    def grow(self):
        names = [v for v in self.channels if self.ops == [] or v != "image"]
        codes = {op.output for op in self.ops if op.kind == "quantize"}
        names = [v for v in names if v not in codes]
        x = names[-1] if self.rng.random() < 0.7 else str(self.rng.choice(names))
        kind = self.rng.choice(["qconv", "qconv", "edge_qconv", "relu", "affine", "residual", "conv2d", "edge_conv2d"])
        outputs = int(self.rng.choice([self.channels[x], self.rng.integers(1, 40), 64]))
        if kind == "qconv" or (kind.endswith("conv2d") and self.channels[x] > self.deepest_conv2d):
            self.qconv(x, outputs)
        elif kind == "edge_qconv":
            self.qconv(x, outputs, edges=True)
        elif kind == "conv2d":
            self.conv2d(x, outputs)
        elif kind == "edge_conv2d":
            self.edge_conv2d(x, outputs)
        elif kind == "relu":
            self.add("relu", [x], self.channels[x])
        elif kind == "affine":
            c = self.channels[x]
            self.add("affine", [x], c, {}, {"scale": self.floats(c), "offset": self.floats(c)})
        else:
            fitting = [v for v in names if self.channels[v] == self.channels[x]]
            self.residual(*self.rng.permutation([str(self.rng.choice(fitting)), x]).tolist())

    def finish(self, upscale):
        """Join all loose ends and shuffle up to three channels."""
        outputs = 3 * upscale * upscale
        ends = [self.qconv(v, outputs) for v in list(self.free)]
        total = ends[0]
        for end in ends[1:]:
            total = self.residual(total, end)
        output = self.add("pixel_shuffle", [total], 3, {"upscale": upscale})
        return Program(tuple(self.ops), output)


def random_model(seed, deepest_conv2d):
    rng = np.random.default_rng(seed)
    builder = Builder(rng, deepest_conv2d)
    for _ in range(int(rng.integers(1, 14))):
        builder.grow()
    program = builder.finish(int(rng.choice([2, 3, 4])))
    list(trace(program, builder.tensors))  # the generator makes only legal programs
    return PackedModel({}, {"full": program}, builder.tensors)


def random_image(seed):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 30, 2)
    return rng.random((h, w, 3)).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_equal_the_reference(seed):
    model, image = random_model(seed, DIRECT), random_image(seed)
    expected = reference.run(model.programs["full"], model.tensors, image)
    for isa, kernel in KERNELS:
        got = Engine(model, threads=1, isa=isa, preferred_kernel=kernel)(image)
        np.testing.assert_array_equal(got, expected, err_msg=kernel)


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_give_the_same_bytes_however_they_run(seed):
    model, image = random_model(seed, 64), random_image(seed)
    expected = Engine(model, threads=1, isa="ref")(image).tobytes()
    tile = 1 + seed % 9
    names = {isa: qconv_kernel_names(isa) for isa in ISAS}
    for (isa, kernel), threads in itertools.product(KERNELS, [1, 2]):
        engine = Engine(model, threads=threads, isa=isa, preferred_kernel=kernel)
        assert engine(image).tobytes() == expected, (kernel, threads)
        if (
            isa != "ref" and threads == 2 and kernel == names[isa][seed % len(names[isa])]
        ):  # one by turns: tiles are slow
            assert engine(image, tile=tile).tobytes() == expected, (kernel, threads, tile)
            assert engine(image).tobytes() == expected, "after another size"


@pytest.mark.parametrize("kernel_row", KERNELS, ids="-".join)
@pytest.mark.parametrize("size", [(45, 40), (13, 530)], ids=str)  # tiles below each other; and side by side
def test_a_run_of_layers_of_several_widths_in_tiles(kernel_row, size):
    """Layers that hand tiles on, of 8 and of 4 bits: neither a neighbour's nor a wider layer's codes may be read."""
    rng, ops, value = np.random.default_rng(19), [], "image"
    for index, width in enumerate((8, 4, 4, 8, 4, 4)):
        (_, _, _, attrs, _), (*_, conv, tensors) = qconv_ops(rng.integers(-8, 8, (16, 3, 3, 16)), 4, width, 8)
        attrs["inv"], offset = (1.0, 200) if width == 8 else (0.0625, 8)
        tensors["mul"] = np.full(16, 0.0625, np.float32)
        ops.append(("quantize", [value], f"a{index}", attrs, {"offset": np.full(16, offset, np.float32)}))
        value = f"y{index}"
        ops.append(("qconv2d", [f"a{index}"], value, conv, tensors))
    image = (rng.standard_normal((*size, 16)) * 100).astype(np.float32)
    wanted, got = run_native(ops, value, image, "ref"), np.empty_like(image)
    for threads in (1, 3):
        _native.Engine(ops, value, 16, threads, *kernel_row).run(image, got)
        np.testing.assert_array_equal(got, wanted, err_msg=f"{threads} threads")


def test_a_residual_waits_for_its_skip():
    """The convolution comes first, the shortcut's value after it: they cannot be one step."""
    rng = np.random.default_rng(20)
    conv, _, _ = conv_ops(rng, 4, 4, 3)
    image = rng.standard_normal((5, 6, 4)).astype(np.float32)
    ops = [*conv, ("relu", ["image"], "z", {}, {}), ("residual", ["z", "y"], "r", {"gain": 0.5}, {})]
    wanted = np.maximum(image, 0) * np.float32(0.5) + run_native(conv, "y", image, "ref")
    np.testing.assert_array_equal(run_native(ops, "r", image, "ref"), wanted)


def test_tiles_agree_where_outputs_round_together():
    """Four convolutions in cells, one at twice the resolution."""
    b = Builder(np.random.default_rng(13), 64)
    y = "image"
    for outputs, kernel in [(36, 3), (33, 5), (40, 3), (128, 3)]:
        tensors = {"weight": b.floats((outputs, kernel, kernel, b.channels[y]), 0.1), "bias": b.floats(outputs)}
        y = b.add("conv2d", [y], outputs, {}, tensors)
    y = b.add("pixel_shuffle", [y], 32, {"upscale": 2})
    y = b.add("conv2d", [y], 3, {}, {"weight": b.floats((3, 3, 3, 32), 0.1), "bias": b.floats(3)})
    model = PackedModel({}, {"full": Program(tuple(b.ops), y)}, b.tensors)
    engine, image = Engine(model), np.random.default_rng(14).random((61, 83, 3)).astype(np.float32)
    whole = engine(image)
    for tile in [5, 8, 13, 16, 31]:
        np.testing.assert_array_equal(engine(image, tile=tile), whole)


def pass_through(kind, tap=1):
    """A convolution of 2 channels that copies the pixel at (tap - 1, tap - 1)."""
    eye = np.zeros((2, 3, 3, 2))
    eye[[0, 1], tap, tap, [0, 1]] = 1
    if kind == "qconv2d":
        return qconv_ops(eye, 2, 4, 0)
    return [("conv2d", ["image"], "y", {}, {"weight": eye.astype(np.float32), "bias": np.zeros(2, np.float32)})]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["conv2d", "qconv2d"])
@pytest.mark.parametrize("swapped", [False, True], ids=["image is the skip", "image is the branch"])
def test_residual_of_a_convolution_and_its_own_input(isa, kind, swapped):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 16, (9, 17, 2)).astype(np.float32)
    skip, branch = ("y", "image") if swapped else ("image", "y")
    ops = [*pass_through(kind, tap=0), ("residual", [skip, branch], "z", {"gain": 0.5}, {})]
    # The result must not be the program's output yet: only values between can share memory.
    ops += [("relu", ["z"], "out", {}, {})]
    shifted = np.pad(image, ((1, 0), (1, 0), (0, 0)))[:-1, :-1]
    wanted = shifted * 0.5 + image if swapped else image * 0.5 + shifted
    np.testing.assert_array_equal(run_native(ops, "out", image, isa), wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_quantizer_rounds_halves_to_even_and_clamps(isa):
    x = np.array([-1e30, -2.0, -0.5, 0.5, 1.5, 2.5, 3.5, 6.5, 14.5, 15.5, 1e30, 7.4999995], np.float32)
    wanted = [0, 0, 0, 0, 2, 2, 4, 6, 14, 15, 15, 7]
    image = np.stack([x, -x], -1)[None]
    quantizer = ("quantize", ["y"], "a", {"inv": 1.0, "levels": 15}, {"offset": np.zeros(2, np.float32)})
    last = [(op[0], ["a"], "z", *op[3:]) for op in pass_through("qconv2d")[1:]]
    for ops in ([*pass_through("conv2d"), quantizer, *last], [("relu", ["image"], "y", {}, {}), quantizer, *last]):
        got = run_native(ops, "z", image, isa)  # fused into the convolution, and on its own
        np.testing.assert_array_equal(got[0, :, 0], wanted)


def edsr(rng, channels=64, blocks=2, upscale=4):
    """The shape of the shipped networks: float head and tail, low-bit body, long skip."""
    b = Builder(rng, 64)

    def block_conv(x, zero):
        c, codes = channels, rng.integers(0, 16, channels * channels * 9).astype(np.uint8)
        offset = b.floats(c, 0.3, zero)
        a = b.add("quantize", [x], c, {"inv": 4.0, "levels": 15}, {"offset": offset})
        packed = f"t{len(b.tensors)}"
        b.tensors[packed] = bits.pack(codes, 4)
        attrs = {"in_channels": c, "out_channels": c, "kernel": 3, "weight_bits": 4, "act_bits": 4, "zero": zero}
        return b.add("qconv2d", [a], c, attrs, {"weight": packed, "mul": b.floats(c, 0.002), "bias": b.floats(c, 0.1)})

    def conv(x, outputs, kernel, scale):
        weight = b.floats((outputs, kernel, kernel, b.channels[x]), scale)
        return b.add("conv2d", [x], outputs, {}, {"weight": weight, "bias": b.floats(outputs, 0.1)})

    head = stream = conv("image", channels, 3, 0.3)
    for _ in range(blocks):
        y = b.add("relu", [block_conv(stream, 8)], channels)
        stream = b.add("residual", [stream, block_conv(y, 0)], channels, {"gain": 0.75})
    y = conv(stream, channels, 3, 0.04)
    y = b.add("residual", [head, y], channels, {"gain": 1.0})
    y = conv(y, 3 * upscale**2, 5, 0.03)
    out = b.add("pixel_shuffle", [y], 3, {"upscale": upscale})
    return PackedModel({}, {"full": Program(tuple(b.ops), out)}, b.tensors)


@pytest.fixture(scope="module")
def model():
    return edsr(np.random.default_rng(7))


def test_a_network_equals_the_reference_up_to_its_last_codes(model):
    ops, tensors = model.programs["full"].ops, model.tensors
    last = max(i for i, op in enumerate(ops) if op.kind == "qconv2d") + 2  # with its residual
    image = np.random.default_rng(8).random((24, 31, 3)).astype(np.float32)
    body = Program(ops[:last], ops[last - 1].output)
    expected = reference.run(body, tensors, image)
    for isa in ISAS:
        got = run_native([native_op(op, tensors) for op in body.ops], body.output, image, isa)
        assert got.tobytes() == expected.tobytes()


def test_a_network_is_close_to_the_reference(model):
    image = np.random.default_rng(8).random((24, 31, 3)).astype(np.float32)
    expected = reference.run(model.programs["full"], model.tensors, image)
    got = Engine(model)(image)
    assert got.shape == (96, 124, 3)
    # No code differs, so only the float32 rounding of the convolutions behind the body is left.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_the_body_is_fused(model):
    engine = Engine(model, isa="ref")
    assert engine.describe() == [
        "conv2d 3x3 3->64 + quantize: float_ref",
        "qconv2d 3x3 64->64 W4A4 + relu + quantize: direct_ref",
        "qconv2d 3x3 64->64 W4A4 + residual + quantize: direct_ref",
        "qconv2d 3x3 64->64 W4A4 + relu + quantize: direct_ref",
        "qconv2d 3x3 64->64 W4A4 + residual: direct_ref",
        "conv2d 3x3 64->64 + residual: winograd_ref",
        "conv2d 5x5 64->48: winograd_ref",
        "pixel_shuffle",
    ]
    assert len(engine.step_seconds()) == 8


def test_the_seconds_of_the_steps_add_up_to_those_of_the_run():
    """Also where most threads find no work: these 8 rows are two tiles."""
    rng = np.random.default_rng(18)
    image, ops = rng.integers(0, 16, (8, 64, 64)).astype(np.float32), []
    for i in range(6):
        (_, _, _, *quantize), (_, _, _, *conv) = qconv_ops(rng.integers(-8, 8, (64, 3, 3, 64)), 4, 4, 8)
        ops += [("quantize", [ops[-1][2] if ops else "image"], f"a{i}", *quantize)]
        ops += [("qconv2d", [f"a{i}"], f"y{i}", *conv)]
    engine, out, shares = _native.Engine(ops, "y5", 64, 8, "ref"), np.empty_like(image), []
    for _ in range(5):
        start = time.perf_counter()
        engine.run(image, out)
        shares.append(sum(engine.step_seconds()) / (time.perf_counter() - start))
    assert 0.5 < max(shares) <= 1


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_shuffle_takes_along_an_affine(upscale, channels):
    rng = np.random.default_rng(15)
    x = rng.standard_normal((5, 7, channels * upscale**2)).astype(np.float32)
    scale, offset = rng.standard_normal((2, channels)).astype(np.float32)
    affine = ("affine", ["y"], "z", {}, {"scale": scale, "offset": offset})
    ops = [("pixel_shuffle", ["image"], "y", {"upscale": upscale}, {}), affine]
    blocks = x.reshape(5, 7, channels, upscale, upscale).transpose(0, 3, 1, 4, 2)
    shuffled = blocks.reshape(5 * upscale, 7 * upscale, channels)
    np.testing.assert_array_equal(run_native(ops[:1], "y", x, "ref"), shuffled)
    np.testing.assert_array_equal(run_native(ops, "z", x, "ref"), shuffled * scale + offset)
    assert _native.Engine(ops, "z", x.shape[2], 1, "ref").describe() == ["pixel_shuffle + affine"]


def test_calls_from_several_threads(model):
    engine, rng = Engine(model, threads=2), np.random.default_rng(9)
    images = [rng.random((int(h), 9, 3)).astype(np.float32) for h in rng.integers(1, 20, 12)]
    expected = [Engine(model, threads=1)(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(engine, images), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_can_use_the_parents_engine(model):
    image = random_image(10)
    engine = Engine(model, threads=2)
    expected = engine(image)
    child = os.fork()
    if child == 0:
        same = bool((engine(image) == expected).all())
        del engine
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_another_thread_runs_can_use_the_engine(model):
    image, large = random_image(10), np.zeros((400, 400, 3), np.float32)
    engine = Engine(model, threads=2)
    expected = engine(image)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine, large)
        time.sleep(0.05)
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # ends the child if it waits for ever
            same = bool((engine(image) == expected).all()) and len(engine.step_seconds()) == len(engine.describe())
            os._exit(0 if same else 1)
        status = os.waitpid(child, 0)[1]
        running.result()
    assert status == 0


@pytest.mark.parametrize("before", [False, True], ids=["set later", "set before"])
def test_the_callers_float_mode_does_not_matter(before):
    """Denormals are flushed in the caller's thread, and in those that it starts."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU flushes nothing")
    try:
        torch.set_flush_denormal(before)
        tiny, huge, zero = (np.full(3, value, np.float32) for value in (1e-20, 2.0**100, 0))
        ops = [("affine", ["image"], "denormal", {}, {"scale": tiny, "offset": zero})]
        ops += [("affine", ["denormal"], "out", {}, {"scale": huge, "offset": zero})]
        engine = _native.Engine(ops, "out", 3, 2, "")
        image = np.full((500, 40, 3), 1e-20, np.float32)
        out = np.zeros_like(image)
        torch.set_flush_denormal(True)
        engine.run(image, out)
        assert np.float32(1e-20) * np.float32(1e-20) == 0  # as the caller wanted it
        assert (out > 0).all()
    finally:
        torch.set_flush_denormal(False)


def test_asking_for_seconds_during_a_run_holds_up_no_other_thread(model):
    engine, image = Engine(model, threads=1, isa="ref"), np.zeros((64, 64, 3), np.float32)
    with ThreadPoolExecutor(2) as pool:
        started = time.perf_counter()
        running = pool.submit(engine, image)
        time.sleep(0.02)
        asked = time.perf_counter()
        asking = pool.submit(engine.step_seconds)
        time.sleep(0.01)
        waited = time.perf_counter() - asked
        running.result()
        took = time.perf_counter() - started
        assert len(asking.result()) == len(engine.describe())
    assert waited < took / 2


# --- errors ---


FEW_THREADS = """
import resource
from packing.tiny import tiny_model
from quantsr.engine import Engine
model = tiny_model(channels=2, blocks=1)
Engine(model, threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
try:
    Engine(model, threads=1000)
except ValueError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(Engine(model, threads=2).threads)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and a limit of memory that holds")
def test_threads_that_cannot_be_started():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", FEW_THREADS], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    error, threads = ended.stdout.splitlines()
    assert error.startswith("threads: wanted as many as this process can start, got 1000 (")
    assert threads == "2"


def test_more_cpus_than_an_engine_takes_threads(model, monkeypatch):
    monkeypatch.setattr("quantsr.engine.usable_cpus", lambda: 3)
    monkeypatch.setattr("quantsr.engine.MAX_THREADS", 2)
    assert Engine(model).threads == 2


def test_isa_from_the_environment(model, monkeypatch):
    monkeypatch.setenv("QUANTSR_ISA", "ref")
    assert Engine(model).isa == "ref"
    assert Engine(model, isa=ISAS[-1]).isa == ISAS[-1]
    monkeypatch.setenv("QUANTSR_ISA", "sse9")
    with pytest.raises(ValueError, match="sse9"):
        Engine(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": "third"}, "wanted one of full, got 'third'"),
        ({"threads": 0}, r"wanted 1\.\.1024, got 0"),
        ({"threads": 100000}, r"wanted 1\.\.1024, got 100000"),
        ({"threads": 2**31}, r"wanted 1\.\.1024, got 2147483648"),
        ({"isa": "avx9"}, "avx9"),
        ({"isa": "ref", "preferred_kernel": "direct_avx2"}, "one of direct_ref, got 'direct_avx2'"),
    ],
    ids=str,
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        Engine(model, **arguments)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.float32),
        np.zeros((0, 4, 3), np.float32),
        np.full((4, 4, 3), np.nan, np.float32),
        [[[0.0, 0.0, 0.0]]],
    ],
    ids=["float64", "uint8", "2d", "rgba", "empty", "nan", "list"],
)
def test_bad_images(model, image):
    with pytest.raises(ValueError, match="image: wanted"):
        Engine(model)(image)


@pytest.mark.parametrize("size", [(2**63 - 1, 1), (1, 2**24 + 1), (0, 5), (5, -1)])
def test_memory_of_sizes_that_cannot_be(model, size):
    with pytest.raises(ValueError, match=r"image (height|width): wanted 1\.\.16777216"):
        Engine(model)._native.workspace_bytes(*size)


def test_memory_whose_sum_passes_64_bits():
    ops = [("relu", ["image"], f"v{i}", {}, {}) for i in range(12)]  # all live at once
    ops += [("residual", [f"s{i - 1}" if i > 1 else "v0", f"v{i}"], f"s{i}", {"gain": 1.0}, {}) for i in range(1, 12)]
    engine = _native.Engine(ops, "s11", 1024, 1, "")
    assert engine.workspace_bytes(2**10, 2**10) == 12 * 4 * 1024 * 2**20
    with pytest.raises(ValueError, match="image size: wanted buffers that fit 64-bit sizes"):
        engine.workspace_bytes(2**24, 2**24)


def test_bad_tile(model):
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Engine(model)(random_image(0), tile=0)


def test_strided_images_are_read_right(model):
    engine, image = Engine(model), random_image(3)
    np.testing.assert_array_equal(engine(image[::-1, ::2]), engine(image[::-1, ::2].copy()))


def changed(index=1, attrs=None, tensors=None, **fields):
    """A legal two-op program with one thing changed in the op at `index`."""
    ops = qconv_ops(np.zeros((4, 3, 3, 2), np.int8), 4, 4, 8)
    op = SimpleNamespace(**dict(zip(["kind", "inputs", "output", "attrs", "tensors"], ops[index], strict=True)))
    op.attrs, op.tensors = {**op.attrs, **(attrs or {})}, {**op.tensors, **(tensors or {})}
    for name, value in fields.items():
        setattr(op, name, value)
    ops[index] = (op.kind, op.inputs, op.output, op.attrs, op.tensors)
    return ops


F32 = np.float32


def float_conv(shape):
    tensors = {"weight": np.zeros(shape, F32), "bias": np.zeros(shape[0], F32)}
    return [("conv2d", ["image"], "y", {}, tensors)]


BAD_PROGRAMS = {
    "no ops": [],
    "unknown kind": changed(kind="conv3d"),
    "undefined input": changed(inputs=["b"]),
    "reads itself": changed(inputs=["y"]),
    "no input": changed(inputs=[]),
    "two inputs": changed(inputs=["a", "a"]),
    "float input": changed(inputs=["image"]),
    "repeated name": changed(output="a"),
    "another output": changed(output="z"),
    "unused value": [("relu", ["image"], "b", {}, {}), *changed()],
    "unknown attribute": changed(attrs={"stride": 1}),
    "missing attribute": [changed()[0], ("qconv2d", ["a"], "y", {}, changed()[1][4])],
    "unknown tensor": changed(tensors={"shift": np.zeros(4, F32)}),
    "missing tensor": [changed()[0], (*changed()[1][:4], {"weight": np.zeros((4, 3, 3, 2), np.int8)})],
    "in_channels": changed(attrs={"in_channels": 3}),
    "out_channels": changed(attrs={"out_channels": 5}),
    "out_channels huge": changed(attrs={"out_channels": 2.0**40}),
    "out_channels nan": changed(attrs={"out_channels": float("nan")}),
    "out_channels negative": changed(attrs={"out_channels": -4}),
    "out_channels fraction": changed(attrs={"out_channels": 4.5}),
    "kernel": changed(attrs={"kernel": 2}),
    "weight_bits": changed(attrs={"weight_bits": 7}),
    "weight_bits 1": changed(attrs={"weight_bits": 1}),
    "weight_bits 9": changed(attrs={"weight_bits": 9}),
    "act_bits": changed(attrs={"act_bits": 3}),
    "act_bits 5": changed(attrs={"act_bits": 5}),
    "kernel 5": changed(attrs={"kernel": 5}),
    "one class of pixels": changed(kind="edge_qconv2d"),
    "zero": changed(attrs={"zero": 16}),
    "zero above levels": [(*changed(index=0, attrs={"levels": 14})[0],), changed(attrs={"zero": 15})[1]],
    "weight range": changed(tensors={"weight": np.full((4, 3, 3, 2), 8, np.int8)}),
    "weight dtype": changed(tensors={"weight": np.zeros((4, 3, 3, 2), F32)}),
    "weight uint8": changed(tensors={"weight": np.zeros((4, 3, 3, 2), np.uint8)}),
    "weight shape": changed(tensors={"weight": np.zeros((4, 9, 2), np.int8)}),
    "mul shape": changed(tensors={"mul": np.zeros(3, F32)}),
    "mul tiny": changed(tensors={"mul": np.full(4, 1e-31, F32)}),
    "mul nan": changed(tensors={"mul": np.full(4, np.nan, F32)}),
    "bias infinite": changed(tensors={"bias": np.full(4, np.inf, F32)}),
    "bias float64": changed(tensors={"bias": np.zeros(4)}),
    "inv zero": changed(index=0, attrs={"inv": 0.0}),
    "inv not float32": changed(index=0, attrs={"inv": 0.1}),
    "inv infinite": changed(index=0, attrs={"inv": float("inf")}),
    "levels": changed(index=0, attrs={"levels": 5}),
    "levels 127": changed(index=0, attrs={"levels": 127}),
    "offset shape": changed(index=0, tensors={"offset": np.zeros(1, F32)}),
    "shuffle channels": [*changed(), ("pixel_shuffle", ["y"], "z", {"upscale": 3}, {})],
    "shuffle upscale": [*changed(), ("pixel_shuffle", ["y"], "z", {"upscale": 5}, {})],
    "residual channels": [*changed(), ("residual", ["image", "y"], "z", {"gain": 1.0}, {})],
    "conv2d even": float_conv((4, 2, 2, 2)),
    "conv2d inputs": float_conv((4, 3, 3, 5)),
    "conv2d flat": float_conv((4,)),
    "conv2d empty": float_conv((0, 3, 3, 2)),
    "two zeros": [
        *changed(),
        (*changed()[1][:2], "z", {**changed()[1][3], "zero": 0}, changed()[1][4]),
        ("residual", ["y", "z"], "out", {"gain": 1.0}, {}),
    ],
}


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_bad_programs_are_refused(name):
    ops = BAD_PROGRAMS[name]
    output = ops[-1][2] if ops and name != "another output" else "y"
    with pytest.raises(ValueError, match="wanted"):
        _native.Engine(ops, output, 2, 1, "")


def test_the_unchanged_program_is_legal():
    assert _native.Engine(changed(), "y", 2, 1, "").output_channels == 4


def test_shapes_that_do_not_fit_are_refused():
    engine = _native.Engine(changed(), "y", 2, 1, "")
    image = np.zeros((3, 5, 2), np.float32)
    for bad in [np.zeros((3, 5, 3), np.float32), np.zeros((3, 4, 4), np.float32)]:
        with pytest.raises(ValueError, match="out: wanted"):
            engine.run(image, bad)
    with pytest.raises(ValueError, match="image: wanted"):
        engine.run(np.zeros((3, 5, 1), np.float32), np.zeros((3, 5, 4), np.float32))
    with pytest.raises(ValueError, match="image height"):
        engine.run(np.zeros((0, 5, 2), np.float32), np.zeros((0, 5, 4), np.float32))
