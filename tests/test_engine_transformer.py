"""What transformers add to the engine: each op and whole networks against `reference`, on all instruction sets."""

import itertools
from typing import Any

import numpy as np
import pytest

from quantsr import Model, _native, reference
from quantsr.engine import Engine, TooLittleMemory, available_isas, native_op
from quantsr.packing import bits
from quantsr.packing.checks import trace
from quantsr.packing.program import IMAGE, Op, PackedModel, Program
from quantsr.packing.reach import receptive_radius

F = np.float32
ISAS = available_isas()
SIZES = [(1, 1), (1, 5), (3, 8), (8, 16), (13, 18), (17, 35)]


def run_native(ops: list[Any], image: np.ndarray, isa: str, threads: int = 1) -> np.ndarray:
    engine = _native.Engine(ops, ops[-1][2], image.shape[2], threads, isa)
    h, w, _ = image.shape
    out = np.empty((h * engine.upscale, w * engine.upscale, engine.output_channels), F)
    engine.run(image, out)
    return out


def run_reference(ops: list[Any], image: np.ndarray) -> np.ndarray:
    values = {"image": image}
    for kind, inputs, output, attrs, tensors in ops:
        op = Op(kind, tuple(inputs), output, attrs, {role: role for role in tensors})
        stored = dict(tensors)
        if kind == "qconv2d":
            half = 2 ** (attrs["weight_bits"] - 1)
            stored["weight"] = bits.pack((tensors["weight"] + half).astype(np.uint8), attrs["weight_bits"])
        values[output] = reference.step(op, [values[name] for name in inputs], stored)
    return values[ops[-1][2]]


def assert_same(ops: list[Any], image: np.ndarray) -> None:
    wanted = run_reference(ops, image)
    for isa, threads in itertools.product(ISAS, [1, 3]):
        np.testing.assert_array_equal(run_native(ops, image, isa, threads), wanted, err_msg=f"{isa} {threads}")


def codes_of(value: str, channels: int, random: np.random.Generator) -> list[Any]:
    """A quantizer behind a value, and a layer that gives its codes back: what other ops fuse."""
    eye = np.eye(channels).reshape(channels, 1, 1, channels).astype(np.int8)
    attrs = {"in_channels": channels, "out_channels": channels, "kernel": 1}
    attrs |= {"weight_bits": 4, "act_bits": 4, "zero": 8}
    tensors = {"weight": eye, "mul": np.ones(channels, F), "bias": np.zeros(channels, F)}
    offset = random.normal(8, 0.3, channels).astype(F)
    return [
        ("quantize", [value], f"{value}.codes", {"inv": 2.5, "levels": 15}, {"offset": offset}),
        ("qconv2d", [f"{value}.codes"], f"{value}.again", attrs, tensors),
    ]


def with_codes(ops: list[Any], value: str, channels: int, random: np.random.Generator) -> list[list[Any]]:
    """The ops alone, with a quantizer that alone reads the value, and with one beside another reader."""
    coded = [*ops, *codes_of(value, channels, random)]
    return [ops, coded, [*coded, ("residual", [value, f"{value}.again"], "both", {"gain": 0.5}, {})]]


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 60, 64, 100, 180])
def test_layer_norm_equals_the_reference(channels: int) -> None:
    random = np.random.default_rng(channels)
    scale, offset = random.standard_normal((2, channels)).astype(F)
    norm = ("layer_norm", ["image"], "y", {"epsilon": 2.0**-10}, {"scale": scale, "offset": offset})
    for size in SIZES:
        image = (random.standard_normal((*size, channels)) * 3 + 5).astype(F)
        for ops in with_codes([norm], "y", channels, random):
            assert_same(ops, image)


@pytest.mark.parametrize("channels", [1, 7, 16, 60, 70, 120, 130])
def test_gelu_equals_the_reference(channels: int) -> None:
    random = np.random.default_rng(channels)
    for size in SIZES:
        image = (random.standard_normal((*size, channels)) * 3).astype(F)
        image.flat[:: max(image.size // 7, 1)] = 1e30
        image.flat[1 :: max(image.size // 5, 1)] = -1e30
        for ops in with_codes([("gelu", ["image"], "y", {}, {})], "y", channels, random):
            assert_same(ops, image)


def attention_ops(random: np.random.Generator, window: int, shift: int, heads: int, depth: int) -> list[Any]:
    """pad, attention, crop, for an image of 3 * heads * depth channels."""
    attrs = {"heads": heads, "window": window, "shift": shift, "scale": float(F(depth**-0.5))}
    bias = random.standard_normal(((2 * window - 1) ** 2, heads)).astype(F)
    return [
        ("pad", ["image"], "padded", {"multiple": max(window, 2)}, {}),
        ("window_attention", ["padded"], "y", attrs, {"position_bias": bias}),
    ]


@pytest.mark.parametrize(("heads", "depth"), [(1, 1), (2, 3), (6, 10), (1, 32), (3, 16), (2, 17)], ids=str)
@pytest.mark.parametrize(("window", "shift"), [(1, 0), (2, 1), (4, 0), (4, 3), (5, 2), (7, 3), (8, 0), (8, 4)], ids=str)
def test_attention_equals_the_reference(window: int, shift: int, heads: int, depth: int) -> None:
    random = np.random.default_rng(window * 100 + depth)
    ops = attention_ops(random, window, shift, heads, depth)
    crop = [("crop", ["z", "image"], "out", {"factor": 1}, {})]
    for size in [(1, 1), (5, 9), (3, 41)]:
        image = (random.standard_normal((*size, 3 * heads * depth)) * 2).astype(F)
        for variant in with_codes(ops, "y", heads * depth, random):
            last = variant[-1]
            assert_same([*variant[:-1], (last[0], last[1], "z", *last[3:]), *crop], image)


def test_large_windows() -> None:
    random = np.random.default_rng(0)
    ops = [*attention_ops(random, 20, 8, 1, 4), ("crop", ["y", "image"], "out", {"factor": 1}, {})]
    assert_same(ops, random.standard_normal((21, 5, 12)).astype(F))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_attention_to_what_is_no_number_or_too_large() -> None:
    """Logits of infinity and NaN have the least weight, on every instruction set."""
    random = np.random.default_rng(1)
    ops = [*attention_ops(random, 4, 2, 2, 5), ("crop", ["y", "image"], "out", {"factor": 1}, {})]
    image = random.standard_normal((8, 8, 30)).astype(F)
    for c, value in itertools.product(range(0, 20, 3), [3e38, -3e38, 1e30]):  # queries and keys: products overflow
        image[*random.integers(0, 8, 2), c] = value
    assert_same(ops, image)


@pytest.mark.parametrize("multiple", [2, 5, 8, 32])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pad_and_crop_equal_the_reference(size: tuple[int, int], multiple: int) -> None:
    image = np.random.default_rng(0).random((*size, 12), dtype=F)
    pad = ("pad", ["image"], "p", {"multiple": multiple}, {})
    assert_same([pad, ("crop", ["p", "image"], "out", {"factor": 1}, {})], image)
    shuffle = ("pixel_shuffle", ["p"], "s", {"upscale": 2}, {})
    crop = ("crop", ["s", "image"], "out", {"factor": 2}, {})
    assert_same([pad, shuffle, crop], image)
    ones = {"scale": np.full(3, 2, F), "offset": np.ones(3, F)}
    fused = [pad, shuffle, ("affine", ["s"], "a", {}, ones), ("crop", ["a", "image"], "out", {"factor": 2}, {})]
    assert_same(fused, image)
    assert _native.Engine(fused, "out", 12, 1, "ref").describe() == ["pad", "pixel_shuffle + affine + crop"]


# --- whole networks ---


class Builder:
    """A random network of the shape of QuantSR-T, made without torch."""

    def __init__(self, random: np.random.Generator, channels: int, heads: int, window: int, floats: bool) -> None:
        self.random, self.channels, self.heads, self.window, self.all_float = random, channels, heads, window, floats
        self.ops: list[Op] = []
        self.tensors: dict[str, np.ndarray] = {}

    def store(self, array: np.ndarray) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else F)
        return name

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        return self.store(self.random.normal(mean, scale, shape))

    def add(self, kind: str, inputs: list[str], attrs: dict[str, Any] | None = None, **tensors: str) -> str:
        self.ops.append(Op(kind, tuple(inputs), f"v{len(self.ops)}", attrs or {}, tensors))
        return self.ops[-1].output

    def conv2d(self, x: str, inputs: int, outputs: int, kernel: int) -> str:
        weight = self.normal(outputs, kernel, kernel, inputs, scale=(kernel * kernel * inputs) ** -0.5)
        return self.add("conv2d", [x], weight=weight, bias=self.normal(outputs, scale=0.1))

    def layer(self, x: str, inputs: int, outputs: int, kernel: int = 1, scale: float = 1.0) -> str:
        if self.all_float:
            return self.conv2d(x, inputs, outputs, kernel)
        b = int(self.random.choice([2, 3, 4]))
        zero = 2 ** (b - 1)
        attrs: dict[str, Any] = {"inv": float(F(zero / 2)), "levels": 2**b - 1}
        codes = self.add("quantize", [x], attrs, offset=self.normal(inputs, scale=0.3, mean=zero))
        weight = self.random.integers(0, 2**b, (outputs, kernel, kernel, inputs)).astype(np.uint8)
        attrs = {"in_channels": inputs, "out_channels": outputs, "kernel": kernel}
        attrs |= {"weight_bits": b, "act_bits": b, "zero": zero}
        mul = self.random.uniform(0.5, 1, outputs) * scale / zero**2 * 4 / (kernel * inputs**0.5)
        packed, bias = self.store(bits.pack(weight, b)), self.normal(outputs, scale=0.1)
        return self.add("qconv2d", [codes], attrs, weight=packed, mul=self.store(mul), bias=bias)

    def norm(self, x: str) -> str:
        c = self.channels
        return self.add("layer_norm", [x], {"epsilon": 2.0**-17}, scale=self.normal(c), offset=self.normal(c))

    def attention(self, qkv: str, shift: int) -> str:
        heads, window = self.heads, self.window
        attrs = {"heads": heads, "window": window, "shift": shift, "scale": float(F((self.channels // heads) ** -0.5))}
        bias = self.normal((2 * window - 1) ** 2, heads)
        return self.add("window_attention", [qkv], attrs, position_bias=bias)

    def swin_layer(self, x: str, shift: int) -> str:
        c = self.channels
        qkv = self.layer(self.norm(x), c, 3 * c)
        mixed = self.attention(qkv, shift)
        x = self.add("residual", [x, self.layer(mixed, c, c, scale=0.3)], {"gain": 1.0})
        inside = self.add("gelu", [self.layer(self.norm(x), c, 2 * c)])
        return self.add("residual", [x, self.layer(inside, 2 * c, c, scale=0.3)], {"gain": 1.0})

    def network(self, groups: int, layers: int, upscale: int) -> PackedModel:
        c = self.channels
        padded = self.add("pad", [IMAGE], {"multiple": self.window})
        head = self.conv2d(padded, 3, c, 3)
        x = self.norm(head)
        for _ in range(groups):
            y = x
            for layer in range(layers):
                y = self.swin_layer(y, layer % 2 * (self.window // 2))
            x = self.add("residual", [x, self.layer(y, c, c, 3)], {"gain": 0.75})
        x = self.add("residual", [head, self.layer(self.norm(x), c, c, 3)], {"gain": 1.0})
        x = self.add("pixel_shuffle", [self.conv2d(x, c, 3 * upscale**2, 1)], {"upscale": upscale})
        self.add("crop", [x, IMAGE], {"factor": upscale})
        program = Program(tuple(self.ops), self.ops[-1].output)
        list(trace(program, self.tensors))  # only legal programs
        return PackedModel({"upscale": upscale, "depths": {"full": []}}, {"full": program}, self.tensors)


def make(seed: int, channels: int = 12, heads: int = 3, floats: bool = False, **size: int) -> PackedModel:
    random = np.random.default_rng(seed)
    window = size.pop("window", int(random.choice([2, 4, 5, 8])))
    return Builder(random, channels, heads, window, floats).network(
        size.pop("groups", 2), size.pop("layers", 2), size.pop("upscale", int(random.choice([2, 3, 4])))
    )


@pytest.mark.parametrize("floats", [False, True], ids=["low bits", "float"])
@pytest.mark.parametrize("seed", range(6))
def test_networks_equal_the_reference(seed: int, floats: bool) -> None:
    """Less than 32 channels, so that no float convolution computes cells."""
    model = make(seed, 12 if seed % 2 else 30, floats=floats)
    size = np.random.default_rng(seed).integers(1, 25, 2)
    image = np.random.default_rng(seed).random((*size, 3), dtype=F)
    wanted = reference.run(model.programs["full"], model.tensors, image)
    for isa, threads in itertools.product(ISAS, [1, 2, 4]):
        np.testing.assert_array_equal(Engine(model, threads=threads, isa=isa)(image), wanted, err_msg=isa)


def test_the_width_of_the_paper_equals_the_reference_up_to_its_last_codes() -> None:
    model = make(0, 60, 6, window=8, upscale=4)
    ops = model.programs["full"].ops
    last = max(i for i, op in enumerate(ops) if op.kind == "qconv2d") + 1
    body = [*ops[: last + 1], Op("crop", (ops[last].output, IMAGE), "out", {"factor": 1})]
    part = PackedModel({}, {"full": Program(tuple(body), "out")}, model.tensors)
    image = np.random.default_rng(0).random((13, 21, 3), dtype=F)
    values = reference.run(part.programs["full"], part.tensors, image)
    for isa in ISAS:
        got = run_native([native_op(op, part.tensors) for op in body], image, isa)
        np.testing.assert_array_equal(got, values, err_msg=isa)


def test_steps_of_a_layer_are_fused() -> None:
    model = make(1, 60, 6, window=8, groups=1, layers=2, upscale=4)
    steps = Engine(model, isa="ref").describe()
    kinds = [line.split(":")[0].replace(" W4A4", "").replace(" W3A3", "").replace(" W2A2", "") for line in steps]
    layer = [
        "layer_norm + quantize",
        "qconv2d 1x1 60->180",
        "window_attention 8x8{} + quantize",
        "qconv2d 1x1 60->60 + residual",
        "layer_norm + quantize",
        "qconv2d 1x1 60->120",
        "gelu + quantize",
        "qconv2d 1x1 120->60 + residual{}",
    ]
    first, second = (
        [line.format(*extra) if "{}" in line else line for line in layer] for extra in ([""], [" shifted"])
    )
    second[-1] = "qconv2d 1x1 120->60 + residual + quantize"
    assert kinds == [
        "pad",
        "conv2d 3x3 3->60",
        "layer_norm",
        *first,
        *second,
        "qconv2d 3x3 60->60 + residual",
        "layer_norm + quantize",
        "qconv2d 3x3 60->60 + residual",
        "conv2d 1x1 60->48",
        "pixel_shuffle + crop",
    ]


@pytest.mark.parametrize("seed", range(8))
def test_tiles_give_the_same_bytes(seed: int) -> None:
    model = make(seed, [12, 30, 36][seed % 3], groups=1, floats=seed % 4 == 3)
    random = np.random.default_rng(seed)
    image = random.random((*random.integers(30, 75, 2), 3), dtype=F)
    engine = Engine(model, threads=1 + seed % 2)
    whole = engine(image)
    for tile in [8, 21, 40]:
        np.testing.assert_array_equal(engine(image, tile=tile), whole, err_msg=str(tile))
    np.testing.assert_array_equal(engine(image), whole)


@pytest.mark.parametrize(("multiple", "grid"), [(6, 12), (7, 28), (8, 8)])
@pytest.mark.parametrize("attention", [False, True], ids=["convolution", "attention"])
def test_tiles_of_what_is_padded_beyond_its_windows(multiple: int, grid: int, attention: bool) -> None:
    window = 4 if multiple % 4 == 0 else multiple
    builder = Builder(np.random.default_rng(multiple), 12, 3, window, floats=True)
    x = builder.add("pad", [IMAGE], {"multiple": multiple})
    if attention:
        x = builder.attention(builder.conv2d(x, 3, 36, 1), window // 2)
    x = builder.conv2d(x, 12 if attention else 3, 12, 3)
    x = builder.add("pixel_shuffle", [x], {"upscale": 2})
    builder.add("crop", [x, IMAGE], {"factor": 2})
    program = Program(tuple(builder.ops), builder.ops[-1].output)
    engine = Engine(PackedModel({}, {"full": program}, builder.tensors), threads=1)
    image = np.random.default_rng(0).random((20, 45, 3), dtype=F)
    wanted = reference.run(program, builder.tensors, image)
    assert engine.grid == grid
    for tile in [None, 4, 9]:
        np.testing.assert_array_equal(engine(image, tile), wanted, err_msg=str(tile))


@pytest.mark.parametrize("window", [2, 4, 8])
def test_the_halo_is_little_more_than_the_radius(window: int) -> None:
    model = make(0, 12, window=window, groups=3, layers=4)
    engine = Engine(model)
    radius = receptive_radius(engine.program, engine.tensors)
    assert engine.grid == max(window, 4)
    assert radius <= engine.halo <= radius + 3 * engine.grid


@pytest.mark.parametrize("window", [5, 8])
def test_eight_bits_behind_the_body(window: int) -> None:
    model = make(4, 36, window=window, groups=1)
    image = np.random.default_rng(0).random((13, 21, 3), dtype=F)
    exact, fast = Engine(model, threads=1), Engine(model, threads=1, fast=True)
    assert any(" W8A8" in line for line in fast.describe())
    result = fast(image)
    assert 0 < np.abs(result - exact(image)).mean() < 0.1 * exact(image).std()
    np.testing.assert_array_equal(fast(image, tile=8), result)
    for isa in ISAS:
        assert Engine(model, threads=2, isa=isa, fast=True)(image).tobytes() == result.tobytes()


def test_memory_bounds_the_tile() -> None:
    engine = Engine(make(0, 12, window=8, groups=1))
    with pytest.raises(TooLittleMemory):
        engine.tile_within(2**20)
    assert engine.tile_within(2**30) == 512
    assert 4 <= engine.tile_within(2**25) < 512


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (23, 1), (9, 17)], ids=str)
def test_a_model_of_any_size(size: tuple[int, int]) -> None:
    model = make(2, 12, window=8)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    s = model.info["upscale"]
    result = Model(model, threads=1).upscale(pixels)
    assert result.shape == (size[0] * s, size[1] * s, 3)
    wanted = reference.run(model.programs["full"], model.tensors, (pixels / 255).astype(F))
    np.testing.assert_array_equal(result, np.rint(255 * np.clip(wanted, 0, 1)).astype(np.uint8))


# --- errors ---

PAD = ("pad", ["image"], "p", {"multiple": 4}, {})
CROP = ("crop", ["y", "image"], "z", {"factor": 1}, {})


def attention(source: str = "p", **changes: Any) -> Any:
    attrs = {"heads": 2, "window": 4, "shift": 2, "scale": 0.5} | {k: v for k, v in changes.items() if k != "bias"}
    return ("window_attention", [source], "y", attrs, {"position_bias": changes.get("bias", np.zeros((49, 2), F))})


def norm(**changes: Any) -> Any:
    tensors = {"scale": np.ones(12, F), "offset": np.zeros(12, F)} | changes.get("tensors", {})
    return ("layer_norm", ["image"], "y", {"epsilon": changes.get("epsilon", 0.5)}, tensors)


BAD_PROGRAMS = {
    "padded result": [PAD],
    "padded twice": [PAD, ("pad", ["p"], "y", {"multiple": 4}, {}), CROP],
    "multiple 1": [("pad", ["image"], "y", {"multiple": 1}, {}), CROP],
    "multiple 33": [("pad", ["image"], "y", {"multiple": 33}, {}), CROP],
    "crop factor": [PAD, ("crop", ["p", "image"], "y", {"factor": 2}, {})],
    "crop like a padded value": [PAD, ("crop", ["p", "p"], "y", {"factor": 1}, {})],
    "not padded": [attention("image")],
    "window that does not divide": [PAD, attention(window=3, bias=np.zeros((25, 2), F)), CROP],
    "window 33": [PAD, attention(window=33), CROP],
    "shift": [PAD, attention(shift=4), CROP],
    "heads": [PAD, attention(heads=5, bias=np.zeros((49, 5), F)), CROP],
    "scale": [PAD, attention(scale=float("nan")), CROP],
    "bias": [PAD, attention(bias=np.zeros((48, 2), F)), CROP],
    "bias infinite": [PAD, attention(bias=np.full((49, 2), np.inf, F)), CROP],
    "epsilon 0": [norm(epsilon=0.0)],
    "epsilon nan": [norm(epsilon=float("nan"))],
    "norm scale": [norm(tensors={"scale": np.ones(11, F)})],
    "norm offset": [norm(tensors={"offset": np.full(12, np.nan, F)})],
    "gelu of codes": [
        ("quantize", ["image"], "c", {"inv": 1.0, "levels": 3}, {"offset": np.zeros(12, F)}),
        ("gelu", ["c"], "y", {}, {}),
    ],
    "residual of two sizes": [PAD, ("residual", ["image", "p"], "y", {"gain": 1.0}, {})],
}


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_bad_programs_are_refused(name: str) -> None:
    ops = BAD_PROGRAMS[name]
    with pytest.raises(ValueError, match="wanted"):
        _native.Engine(ops, ops[-1][2], 12, 1, "")


def test_the_unchanged_programs_are_legal() -> None:
    for ops in ([PAD, attention(), CROP], [norm()]):
        assert _native.Engine(ops, ops[-1][2], 12, 1, "").upscale == 1
