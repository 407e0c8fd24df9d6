"""SwinIR as ops: the reference against torch, each new op against loops, what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quantsr import exact, images, metrics, reference
from quantsr.models.swinir import SwinIR, WindowAttention, from_windows, hidden_pairs, mirrored
from quantsr.packing import dumps, loads
from quantsr.packing.checks import check_program
from quantsr.packing.cost import cost
from quantsr.packing.lift import lift
from quantsr.packing.lower import lower
from quantsr.packing.ops import weight_codes
from quantsr.packing.program import FieldError, GraphError, LimitError, Op, PackedModel, PackedModelError, Program
from quantsr.packing.reach import receptive_radius
from quantsr.quant import QuantConfig, QuantLayer, calibrate, quantize, quantized_layers

F = np.float32
DEPTHS = ("full", "half", "quarter")


def make_network(bits: int | None = 4, placement: str = "linears_convolutions", **settings: Any) -> SwinIR:
    """A calibrated random network whose gains, shifts and position biases are away from their initial values."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"channels": 12, "blocks": 4, "layers": 2, "heads": 3, "window": 4}
    small["ranking"] = (2, 0, 1, 3)
    network = SwinIR(upscale=2, **(small | settings))
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            parameter.data.uniform_(0.7, 1.3)
        if name.endswith("position_bias") or ".norm" in name:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.5)
    if bits is not None:
        quantize(network, QuantConfig(bits, bits, placement=placement))
        calibrate(network, [torch.rand(2, 3, 12, 12) for _ in range(3)])
        for name, parameter in network.named_parameters():
            if name.endswith(("act_quantizer.shift", "left_quantizer.shift", "right_quantizer.shift")):
                parameter.data.normal_(0, 0.05)
    return network.eval()


def packed(
    network: SwinIR, bits: int | None = 4, depths: tuple[str, ...] = DEPTHS, placement: str = "linears_convolutions"
) -> PackedModel:
    quant = None if bits is None else QuantConfig(bits, bits, placement=placement)
    return loads(dumps(lower(network, name="test", quant=quant, depths=depths)))


@torch.no_grad()
def run_torch(network: torch.nn.Module, image: np.ndarray, depth: str) -> np.ndarray:
    return network(torch.from_numpy(image).permute(2, 0, 1)[None], depth=depth)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("bits", [2, 3, 4, None], ids=["2-bit", "3-bit", "4-bit", "float"])
def test_reference_runs_what_torch_trained(bits: int | None, depth: str) -> None:
    network, image = make_network(bits), np.random.default_rng(1).random((11, 13, 3), dtype=F)
    model = packed(network, bits)
    expected = run_torch(network, image, depth)
    got = reference.run(model.programs[depth], model.tensors, image)
    assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
    assert np.abs(got - expected).max() < 0.1
    np.testing.assert_allclose(run_torch(lift(model), image, depth), expected, atol=1e-4)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 4)], ids=str)
def test_any_size_and_scale(size: tuple[int, int], upscale: int) -> None:
    torch.manual_seed(0)
    network = SwinIR(upscale=upscale, channels=8, blocks=1, layers=2, heads=2, window=8).eval()
    model = packed(network, None, ("full",))
    image = np.random.default_rng(1).random((*size, 3), dtype=F)
    got = reference.run(model.programs["full"], model.tensors, image)
    np.testing.assert_allclose(got, run_torch(network, image, "full"), atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4])
def test_each_layer_fed_the_same_codes_has_equal_accumulators(bits: int, picture: Any) -> None:
    network = make_network(bits)
    model = packed(network, bits)
    ops = {op.output: op for op in model.programs["full"].ops}
    inputs: dict[str, torch.Tensor] = {}
    layers: dict[str, QuantLayer] = quantized_layers(network)
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    run_torch(network, images.to_float(picture(12, 16)), "full")
    assert len(inputs) == 4 * (2 * 4 + 1)
    for name, layer in layers.items():
        codes, act = layer.input_codes(inputs[name])
        weights, _ = layer.weight_quantizer.codes(layer.weight)
        if isinstance(layer, torch.nn.Conv2d):
            by_torch = torch.nn.functional.conv2d(codes.double(), weights.double(), padding=1)[0].permute(1, 2, 0)
            codes = codes.permute(0, 2, 3, 1)
        else:
            codes = codes.reshape(1, 1, -1, codes.shape[-1])  # pixels in the order of the layer
            by_torch = (codes.double() @ weights.double().T)[0]
        stored = (codes[0].numpy().astype(np.int16) - act.qmin).astype(np.uint8)
        op = ops[name]
        packed_codes = weight_codes(op, model.tensors[op.tensors["weight"]])
        by_reference = reference.accumulate(stored, packed_codes, int(op.attrs["zero"]))
        np.testing.assert_array_equal(by_reference, by_torch.numpy().astype(np.int32))


@pytest.mark.parametrize("bits", [2, 4])
def test_the_picture_loses_less_than_a_hundredth_of_a_decibel(bits: int, picture: Any) -> None:
    network, hr = make_network(bits), picture(48, 56)
    model = packed(network, bits, ("full",))
    lr = images.downscale(hr, 2)
    one = images.to_uint8(run_torch(network, images.to_float(lr), "full"))
    two = images.to_uint8(reference.run(model.programs["full"], model.tensors, images.to_float(lr)))
    assert abs(metrics.psnr(one, hr, 2) - metrics.psnr(two, hr, 2)) < 0.01
    assert np.mean(one != two) < 0.01


# ---- the ops


def run_op(kind: str, inputs: list[np.ndarray], attrs: dict[str, Any], **tensors: np.ndarray) -> np.ndarray:
    op = Op(kind, ("image",) * len(inputs), "y", attrs, {role: role for role in tensors})
    return reference.step(op, inputs, tensors)


def fma(a: Any, b: Any, c: Any) -> np.float32:
    return F(exact.fma(F(a), F(b), np.array([c], F))[0])


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_equals_loops(shift: int) -> None:
    random = np.random.default_rng(0)
    window, heads, depth, h, w = 4, 2, 3, 4, 8
    x = random.standard_normal((h, w, 3 * heads * depth)).astype(F)
    table = random.standard_normal(((2 * window - 1) ** 2, heads)).astype(F)
    scale = float(F(depth**-0.5))
    attrs = {"heads": heads, "window": window, "shift": shift, "scale": scale}
    got = run_op("window_attention", [x], attrs, position_bias=table)
    for top, left, head in np.ndindex(h // window, w // window, heads):
        pixels = [(window * top + i, window * left + j) for i, j in np.ndindex(window, window)]
        q, k, v = (
            {p: x[(p[0] + shift) % h, (p[1] + shift) % w][start : start + depth] for p in pixels}
            for start in (depth * (head + part * heads) for part in range(3))
        )
        for y, z in pixels:
            seen = [p for p in pixels if (p[0] >= h - shift, p[1] >= w - shift) == (y >= h - shift, z >= w - shift)]
            logits = []
            for p in seen:
                row = (y - p[0] + window - 1) * (2 * window - 1) + z - p[1] + window - 1
                logits.append(table[row, head] * exact.LOG2_E)
                for i in range(depth):
                    logits[-1] = fma(q[y, z][i] * (F(scale) * exact.LOG2_E), k[p][i], logits[-1])
            weights = exact.exp2(np.array(logits, F) - max(logits))
            total, mixed = F(0), [F(0)] * depth
            for weight, p in zip(weights, seen, strict=True):
                total = F(total + weight)
                mixed = [fma(weight, v[p][i], mixed[i]) for i in range(depth)]
            wanted = [F(m * F(F(1) / total)) for m in mixed]
            at = got[(y + shift) % h, (z + shift) % w, head * depth : (head + 1) * depth]
            assert at.tolist() == wanted


@torch.no_grad()
def test_attention_equals_the_networks() -> None:
    torch.manual_seed(0)
    layer, x = WindowAttention(12, 3, 8, 4), torch.randn(1, 16, 24, 12)
    layer.position_bias.normal_()
    seen: list[torch.Tensor] = []

    def keep(windows: torch.Tensor) -> None:
        seen.append(from_windows(windows, 8, 16, 24).roll((4, 4), (1, 2)))  # as they lie in the image

    layer.qkv.register_forward_hook(lambda _, __, out: keep(out))
    layer.projection.register_forward_pre_hook(lambda _, args: keep(args[0]))
    layer(x, hidden_pairs(16, 24, 8, x.device))
    attrs = {"heads": 3, "window": 8, "shift": 4, "scale": 0.5}
    got = run_op("window_attention", [seen[0][0].numpy()], attrs, position_bias=layer.position_bias.numpy())
    np.testing.assert_allclose(got, seen[1][0].numpy(), atol=2e-6)


def test_a_logit_that_is_no_number_has_the_least_weight() -> None:
    x = np.zeros((2, 2, 3), F)
    x[..., 2] = [[1, 2], [3, 4]]
    x[0, 0, 1] = np.nan  # the key of the first pixel
    attrs = {"heads": 1, "window": 2, "shift": 0, "scale": 1.0}
    assert run_op("window_attention", [x], attrs, position_bias=np.zeros((9, 1), F)).ravel().tolist() == [3, 3, 3, 3]


def test_layer_norm_equals_loops() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 21)).astype(F)
    scale, offset = random.standard_normal((2, 21)).astype(F)
    got = run_op("layer_norm", [x], {"epsilon": 0.125}, scale=scale, offset=offset)
    for pixel, out in zip(x.reshape(-1, 21), got.reshape(-1, 21), strict=True):
        d = pixel - exact.dot(pixel[None], np.ones((1, 21), F))[0] / F(21)
        r = F(1) / np.sqrt(exact.dot(d[None], d[None])[0] / F(21) + F(0.125))
        assert out.tolist() == [F(F(F(d[c] * r) * scale[c]) + offset[c]) for c in range(21)]
    wanted = torch.nn.functional.layer_norm(torch.from_numpy(x), (21,), *map(torch.from_numpy, (scale, offset)), 0.125)
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-6)


def test_gelu() -> None:
    x = np.linspace(-7, 7, 4001).astype(F).reshape(1, -1, 1)
    got = run_op("gelu", [x], {})
    np.testing.assert_allclose(got, torch.nn.functional.gelu(torch.from_numpy(x)).numpy(), atol=3e-6)
    assert run_op("gelu", [np.array([[[-6, 6, -1e30, 1e30]]], F)], {}).ravel().tolist() == [0, 6, 0, F(1e30)]


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (8, 16)], ids=str)
def test_pad_and_crop(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).random((*size, 3), dtype=F)
    wanted = mirrored(torch.from_numpy(x).permute(2, 0, 1)[None], 8)[0].permute(1, 2, 0).numpy()
    got = run_op("pad", [x], {"multiple": 8})
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(run_op("crop", [got, x], {"factor": 1}), x)
    doubled = got.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(run_op("crop", [doubled, x], {"factor": 2}), x.repeat(2, 0).repeat(2, 1))


# ---- the file, the rules


def test_a_file_has_the_version_of_its_ops() -> None:
    data = dumps(packed(make_network(None), None))
    assert b'"version":"2"' in data[:80]


def test_no_pixel_beyond_the_radius_counts() -> None:
    model = packed(make_network(None, blocks=1, ranking=(0,), window=4), None, ("full",))
    program = model.programs["full"]
    radius = receptive_radius(program, model.tensors)
    assert radius == 4 + 3 + 2  # four convolutions of 3x3; in one window three pixels, from there in a shifted one two
    one = np.random.default_rng(0).random((28, 28, 3), dtype=F)
    before, reach = reference.run(program, model.tensors, one), []
    for middle in range(12, 16):  # all places in a window
        two = one.copy()
        two[middle, middle] += 0.5
        rows, columns, _ = np.nonzero(before != reference.run(program, model.tensors, two))
        reach.append(max(np.abs(rows // 2 - middle).max(), np.abs(columns // 2 - middle).max()))
    assert max(reach) == radius


def test_work_by_hand() -> None:
    model = packed(make_network(), depths=("full",))
    found = cost(model.programs["full"], model.tensors, width=4, height=4)
    c, layers = 12, 8
    linears, group, ends = 8 * c * c, 9 * c * c, 9 * (3 * c + c * c + 12 * c)
    assert found.weights == layers * linears + 4 * group + ends
    assert found.macs == 16 * (found.weights + layers * 2 * 16 * c)
    assert sum(layer.quantized for layer in found.layers) == layers * 4 + 4
    assert model.info["architecture"] == "quantsr-t"
    norms, tables = 2 * c * (2 * layers + 2), layers * 49 * 3
    assert model.info["parameters"] == found.weights + found.biases + norms + tables


def swapped(model: PackedModel, output: str, **changes: Any) -> Program:
    program = model.programs["full"]
    ops = [replace(op, **changes) if op.output == output else op for op in program.ops]
    return replace(program, ops=tuple(ops))


ATTENTION = "body.0.layers.1.attention"


@pytest.mark.parametrize(
    ("output", "key", "value", "error", "message"),
    [
        (ATTENTION, "shift", 4, FieldError, "shift: got 4, wanted less than the window, 4"),
        (ATTENTION, "shift", -1, FieldError, "shift: got -1"),
        (ATTENTION, "heads", 5, PackedModelError, "position_bias: got"),
        (ATTENTION, "window", 3, PackedModelError, "position_bias: got"),
        (ATTENTION, "scale", float("nan"), FieldError, "scale: got nan"),
        ("padded", "multiple", 6, GraphError, "padded to multiples of 4"),
        ("padded", "multiple", 1, FieldError, "multiple: got 1"),
        ("cropped", "factor", 3, GraphError, "factor: got 3, wanted 2"),
        ("norm_in", "epsilon", 0.0, FieldError, "epsilon: got 0.0"),
    ],
)
def test_what_breaks_a_rule_is_refused(output: str, key: str, value: Any, error: type, message: str) -> None:
    model = packed(make_network(None, blocks=1, ranking=(0,)), None, ("full",))
    op = next(op for op in model.programs["full"].ops if op.output == output)
    program = swapped(model, output, attrs={**op.attrs, key: value})
    with pytest.raises(error, match=message):
        check_program(program, model.tensors, model.info)


def test_sizes_must_fit() -> None:
    model = packed(make_network(None, blocks=1, ranking=(0,)), None, ("full",))
    program = swapped(model, "cropped", inputs=("output", "head"))
    with pytest.raises(GraphError, match="second input: got"):
        check_program(program, model.tensors, model.info)
    program = swapped(model, "input", inputs=("image",))  # without padding
    with pytest.raises(GraphError):
        check_program(program, model.tensors, model.info)


def test_windows_must_have_a_small_common_multiple() -> None:
    model = packed(make_network(None, blocks=1, ranking=(0,), layers=1), None, ("full",))
    ops = list(model.programs["full"].ops)
    crop = next(op for op in ops if op.kind == "crop")
    attrs = {"heads": 1, "window": 25, "shift": 0, "scale": 1.0}
    ops += [
        Op("pad", ("image",), "again", {"multiple": 25}),
        Op("window_attention", ("again",), "one", attrs, {"position_bias": "wide"}),
    ]
    tensors = model.tensors | {"wide": np.zeros((49**2, 1), F)}
    with pytest.raises(LimitError, match="common multiple of windows: got 100, wanted at most 32"):
        check_program(Program(tuple(ops), crop.output), tensors, model.info)


def test_a_part_with_its_halo_equals_the_whole() -> None:
    model = packed(make_network(4, blocks=1, ranking=(0,)), depths=("full",))
    program, window = model.programs["full"], 4
    halo = -(-receptive_radius(program, model.tensors) // window) * window
    image = np.random.default_rng(0).random((30, 45, 3), dtype=F)
    whole = reference.run(program, model.tensors, image)
    top, left, bottom = 4, 20, 8  # the part is rows 4 .. 7 and all columns from 20
    start, begin, end = max(top - halo, 0), max(left - halo, 0), min(bottom + halo, 30)
    part = reference.run(program, model.tensors, np.ascontiguousarray(image[start:end, begin:]))
    np.testing.assert_array_equal(
        part[2 * (top - start) : 2 * (bottom - start), 2 * (left - begin) :], whole[2 * top : 2 * bottom, 2 * left :]
    )
