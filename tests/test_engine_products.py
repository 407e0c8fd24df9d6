"""Attention whose products are of codes: the op and whole networks against `reference`, on all instruction sets."""

import itertools
from typing import Any

import numpy as np
import pytest
from test_engine_transformer import ISAS, Builder, F, assert_same, run_native, run_reference, with_codes

from quantsr import _native, reference
from quantsr.engine import Engine
from quantsr.packing.program import PackedModel

SHAPES = [(1, 1), (2, 3), (6, 10), (1, 32), (3, 16), (2, 17)]  # heads, channels of one
WINDOWS = [(1, 0), (2, 1), (4, 0), (4, 3), (5, 2), (7, 3), (8, 0), (8, 4)]  # side, shift
SIGNED = {2: (3, 2), 3: (7, 4), 4: (15, 8)}  # bits -> levels, zero


def attrs_of(
    random: np.random.Generator, window: int, shift: int, heads: int, levels: int, zero: int
) -> dict[str, Any]:
    """Logits of a few units, and weights that take all codes."""
    most = int(random.choice([3, 7, 14, 15]))
    return {
        "heads": heads,
        "window": window,
        "shift": shift,
        **dict.fromkeys(("query_zero", "key_zero", "value_zero"), zero),
        "score_mul": float(F(3 / levels**2)),
        "softmax_inv": float(F(most * random.uniform(1, 5))),
        "softmax_levels": most,
        "softmax_zero": int(random.integers(0, 3)) % 2,
        "mix_mul": float(F(random.normal(0, 1 / most))),
    }


def tensors_of(random: np.random.Generator, window: int, heads: int) -> dict[str, np.ndarray]:
    bias = random.standard_normal(((2 * window - 1) ** 2, heads)).astype(F)
    return {"position_bias": bias, "softmax_offset": random.uniform(0, 1.2, heads).astype(F)}


def attention_ops(
    random: np.random.Generator, window: int, shift: int, heads: int, depth: int, bits: int = 4, **changes: Any
) -> list[Any]:
    """pad, quantize, attention, for an image of 3 * heads * depth channels."""
    levels, zero = SIGNED[bits]
    attrs = attrs_of(random, window, shift, heads, levels, zero) | changes
    offset = random.normal(zero, 0.4, 3 * heads * depth).astype(F)
    return [
        ("pad", ["image"], "padded", {"multiple": max(window, 2)}, {}),
        ("quantize", ["padded"], "codes", {"inv": float(F(levels / 4)), "levels": levels}, {"offset": offset}),
        ("qwindow_attention", ["codes"], "y", attrs, tensors_of(random, window, heads)),
    ]


def cropped(ops: list[Any]) -> list[Any]:
    last = ops[-1]
    return [*ops[:-1], (last[0], last[1], "z", *last[3:]), ("crop", ["z", "image"], "out", {"factor": 1}, {})]


def image_of(random: np.random.Generator, size: tuple[int, int], channels: int) -> np.ndarray:
    return random.normal(0, 1, (*size, channels)).astype(F)


@pytest.mark.parametrize(("heads", "depth"), SHAPES, ids=str)
@pytest.mark.parametrize(("window", "shift"), WINDOWS, ids=str)
def test_attention_equals_the_reference(window: int, shift: int, heads: int, depth: int) -> None:
    random = np.random.default_rng(window * 100 + depth)
    for bits, size in zip([2, 3, 4], [(1, 1), (5, 9), (3, 41)], strict=True):
        ops = attention_ops(random, window, shift, heads, depth, bits)
        image = image_of(random, size, 3 * heads * depth)
        for variant in with_codes(ops, "y", heads * depth, random):
            assert_same(cropped(variant), image)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 15), (15, 0), (15, 15)])
def test_the_largest_sums(left: int, right: int) -> None:
    """All codes at the end of their range that is farthest from zero, in heads and windows as large as may be."""
    zeros = {"query_zero": left, "key_zero": right, "value_zero": right, "softmax_zero": left}
    changes = zeros | {"softmax_levels": 15, "score_mul": 2.0**-16, "softmax_inv": 2.0**-10}
    ops = attention_ops(np.random.default_rng(0), 16, 5, 1, 256, **changes)
    ops[1][4]["offset"][:] = np.repeat([15.0 - left, 15.0 - right], [256, 512])
    ops[2][4]["softmax_offset"][:] = 15.0 - left
    image = np.zeros((17, 18, 768), F)
    result = run_reference(cropped(ops), image)
    assert abs(result).max() == F(256 * 15 * 15) * F(abs(ops[2][3]["mix_mul"]))
    for isa in ISAS:
        np.testing.assert_array_equal(run_native(cropped(ops), image, isa), result, err_msg=isa)


def test_zeros_of_queries_keys_and_values_may_differ() -> None:
    random = np.random.default_rng(2)
    for zeros in [(0, 8, 15), (8, 0, 0), (7, 15, 8)]:
        changes = dict(zip(("query_zero", "key_zero", "value_zero"), zeros, strict=True))
        ops = attention_ops(random, 4, 2, 2, 5, **changes)
        assert_same(cropped(ops), image_of(random, (9, 11), 30))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    "changes",
    [{"score_mul": 3e38}, {"score_mul": -3e38}, {"softmax_inv": 3e38}, {"softmax_inv": -1.0}, {"mix_mul": 3e38}],
    ids=str,
)
def test_numbers_at_the_limit(changes: dict[str, float]) -> None:
    """Logits of infinity and NaN have the least weight, and weights beyond all codes the last code."""
    random = np.random.default_rng(3)
    ops = attention_ops(random, 4, 1, 2, 5, **{key: float(F(value)) for key, value in changes.items()})
    assert_same(cropped(ops), image_of(random, (8, 8), 30))


# --- whole networks ---


class ProductBuilder(Builder):
    """A network whose attention computes with codes."""

    def attention(self, qkv: str, shift: int) -> str:
        bits = int(self.random.choice([2, 3, 4]))
        levels, zero = SIGNED[bits]
        ones, zeros = np.ones(3 * self.channels), np.zeros(3 * self.channels)
        scaled = self.add("affine", [qkv], scale=self.store(ones * levels / 4), offset=self.store(ones * zero))
        codes = self.add("quantize", [scaled], {"inv": 1.0, "levels": levels}, offset=self.store(zeros))
        attrs = attrs_of(self.random, self.window, shift, self.heads, levels, zero)
        attrs["mix_mul"] = float(F(3 / attrs["softmax_inv"]))
        tensors = tensors_of(self.random, self.window, self.heads)
        return self.add("qwindow_attention", [codes], attrs, **{role: self.store(t) for role, t in tensors.items()})


def make(seed: int, channels: int = 12, heads: int = 3, **size: int) -> PackedModel:
    random = np.random.default_rng(seed)
    window = size.pop("window", int(random.choice([2, 4, 5, 8])))
    upscale = int(random.choice([2, 3, 4]))
    return ProductBuilder(random, channels, heads, window, False).network(size.pop("groups", 2), 2, upscale)


@pytest.mark.parametrize("seed", range(6))
def test_networks_equal_the_reference(seed: int) -> None:
    """Less than 32 channels, so that no float convolution computes cells."""
    model = make(seed, 12 if seed % 2 else 30)
    size = np.random.default_rng(seed).integers(1, 25, 2)
    image = np.random.default_rng(seed).random((*size, 3), dtype=F)
    wanted = reference.run(model.programs["full"], model.tensors, image)
    for isa, threads in itertools.product(ISAS, [1, 2, 4]):
        np.testing.assert_array_equal(Engine(model, threads=threads, isa=isa)(image), wanted, err_msg=isa)


@pytest.mark.parametrize("seed", range(6))
def test_tiles_give_the_same_bytes(seed: int) -> None:
    model = make(seed, [12, 30, 36][seed % 3], groups=1)
    random = np.random.default_rng(seed)
    image = random.random((*random.integers(30, 75, 2), 3), dtype=F)
    engine = Engine(model, threads=1 + seed % 2)
    whole = engine(image)
    for tile in [8, 21, 40]:
        np.testing.assert_array_equal(engine(image, tile=tile), whole, err_msg=str(tile))


def test_codes_are_made_where_queries_keys_and_values_are() -> None:
    steps = Engine(make(1, 60, 6, window=8, groups=1), isa="ref").describe()
    at = next(i for i, line in enumerate(steps) if line.startswith("qwindow_attention"))
    assert steps[at].split(":")[0] == "qwindow_attention 8x8 + quantize"
    assert "60->180" in steps[at - 1] and " + affine + quantize" in steps[at - 1]


# --- what is refused ---


def broken(**changes: Any) -> list[Any]:
    ops = attention_ops(np.random.default_rng(0), 4, 1, 2, 3)
    kind, inputs, output, attrs, tensors = ops[2]
    tensors = tensors | {role: changes.pop(role) for role in ("softmax_offset", "position_bias") if role in changes}
    ops[2] = (kind, changes.pop("inputs", inputs), output, attrs | changes, tensors)
    return cropped(ops)


REFUSED = {
    "floats": ({"inputs": ["padded"]}, "codes as input"),
    "window 17": ({"window": 17, "position_bias": np.zeros((33**2, 2), F)}, r"integer in 1\.\.16, got 17"),
    "query zero": ({"query_zero": 16}, r"integer in 0\.\.15, got 16"),
    "value zero": ({"value_zero": -1}, r"integer in 0\.\.15, got -1"),
    "softmax zero": ({"softmax_zero": 8, "softmax_levels": 7}, r"integer in 0\.\.7, got 8"),
    "softmax levels": ({"softmax_levels": 16}, r"integer in 2\.\.15, got 16"),
    "softmax inv": ({"softmax_inv": 0.0}, "number other than 0"),
    "score mul": ({"score_mul": float("nan")}, "float32 holds"),
    "mix mul": ({"mix_mul": 1e39}, "float32 holds"),
    "offset": ({"softmax_offset": np.zeros(3, F)}, r"shape \(2\)"),
    "offset infinite": ({"softmax_offset": np.full(2, np.inf, F)}, "finite"),
    "heads": ({"heads": 5}, "divisible"),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED)
def test_the_engine_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Engine(broken(**changes), "out", 18, 1, "ref")


def test_the_engine_refuses_wide_codes_and_deep_heads() -> None:
    ops = cropped(attention_ops(np.random.default_rng(0), 4, 1, 1, 3))
    ops[1][3]["levels"] = 16
    with pytest.raises(ValueError, match="codes up to 15, got codes up to 16"):
        _native.Engine(ops, "out", 9, 1, "ref")
    ops = cropped(attention_ops(np.random.default_rng(0), 2, 1, 1, 257))
    with pytest.raises(ValueError, match="at most 256 channels of a head, got 257"):
        _native.Engine(ops, "out", 771, 1, "ref")
