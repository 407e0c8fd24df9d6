"""Quantized products of attention: torch, the file, the reference and back; what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from packing.test_transformer import ATTENTION, DEPTHS, F, fma, make_network, packed, run_torch
from quantsr import exact, images, metrics, reference
from quantsr.engine import Engine, available_isas
from quantsr.models.swinir import SwinIR
from quantsr.packing import file
from quantsr.packing.checks import check_program
from quantsr.packing.cost import cost
from quantsr.packing.file import VersionError, dumps, loads
from quantsr.packing.lift import lift
from quantsr.packing.lower import lower
from quantsr.packing.program import FieldError, GraphError, LimitError, Op, PackedModel, Program, TensorError
from quantsr.quant import NotPackable, QuantConfig, QuantProduct, calibrate, quantize

PLACEMENT = "linears_products"


def network_of(bits: int, **settings: Any) -> SwinIR:
    return make_network(bits, PLACEMENT, **settings)


def model_of(bits: int, depths: tuple[str, ...] = ("full",), **settings: Any) -> PackedModel:
    return packed(network_of(bits, **settings), bits, depths, PLACEMENT)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_reference_and_engine_run_what_torch_trained(bits: int, depth: str) -> None:
    network, image = network_of(bits), np.random.default_rng(1).random((11, 13, 3), dtype=F)
    model = packed(network, bits, placement=PLACEMENT)
    expected = run_torch(network, image, depth)
    got = reference.run(model.programs[depth], model.tensors, image)
    assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
    assert np.abs(got - expected).max() < 0.1
    for isa in available_isas():
        assert Engine(model, depth=depth, isa=isa)(image).tobytes() == got.tobytes()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_file_becomes_the_network_again(bits: int) -> None:
    network, image = network_of(bits), np.random.default_rng(1).random((11, 13, 3), dtype=F)
    model = packed(network, bits, placement=PLACEMENT)
    again = lift(model)
    np.testing.assert_allclose(run_torch(again, image, "full"), run_torch(network, image, "full"), atol=1e-4)
    twice = packed(again, bits, placement=PLACEMENT)
    for one, two in zip(model.programs["full"].ops, twice.programs["full"].ops, strict=True):
        assert one.kind == two.kind and {k: v for k, v in one.attrs.items() if type(v) is int} == {
            k: v for k, v in two.attrs.items() if type(v) is int
        }
    for name, tensor in model.tensors.items():
        np.testing.assert_allclose(twice.tensors[name], tensor, rtol=1e-5, atol=1e-5, err_msg=name)


@torch.no_grad()
@pytest.mark.parametrize("bits", [2, 4])
def test_each_product_fed_the_same_codes_has_equal_sums(bits: int, picture: Any) -> None:
    network = network_of(bits)
    ops = model_ops(packed(network, bits, placement=PLACEMENT))
    factors: dict[str, Any] = {}
    for name, product in network.named_modules():
        if isinstance(product, QuantProduct):
            product.register_forward_pre_hook(lambda _, args, name=name: factors.update({name: args[:2]}))
    run_torch(network, images.to_float(picture(12, 16)), "full")
    for name in (name.removesuffix(".scores") for name in factors if name.endswith(".scores")):
        attention, op = network.get_submodule(name), ops[name]
        q, k = codes_of(attention.scores, factors[f"{name}.scores"])
        p, v = codes_of(attention.mixture, factors[f"{name}.mixture"])
        zeros = [int(op.attrs[f"{part}_zero"]) for part in ("query", "key", "value")]
        parts = [part + zero for part, zero in zip((q, k.transpose(2, 3), v), zeros, strict=True)]
        stored = torch.stack(parts).permute(1, 3, 0, 2, 4).reshape(3, 4, 4, 4, -1).transpose(1, 2)  # 3x4 windows of 4x4
        shift = int(op.attrs["shift"])  # windows come from a rolled image
        stored = np.roll(stored.reshape(12, 16, -1).numpy().astype(np.uint8), (shift, shift), (0, 1))
        weights = (p + int(op.attrs["softmax_zero"])).numpy().astype(np.uint8)
        scores, mixture = reference.accumulate_scores(op, stored), reference.accumulate_mixture(op, stored, weights)
        np.testing.assert_array_equal(scores, (q.double() @ k.double()).numpy())
        np.testing.assert_array_equal(mixture, (p.double() @ v.double()).numpy())


def codes_of(product: Any, factors: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = (product.left_quantizer, product.right_quantizer)
    return left.codes(factors[0])[0].int(), right.codes(factors[1])[0].int()


@pytest.mark.parametrize("shift", [0, 1])
def test_attention_equals_loops(shift: int) -> None:
    random = np.random.default_rng(0)
    window, heads, depth, h, w = 4, 2, 3, 4, 8
    a = random.integers(0, 16, (h, w, 3 * heads * depth), dtype=np.uint8)
    table = random.standard_normal(((2 * window - 1) ** 2, heads)).astype(F)
    offsets = np.array([0.25, 1.5], F)
    zeros = {"query_zero": 8, "key_zero": 7, "value_zero": 0, "softmax_zero": 1}
    attrs = {"heads": heads, "window": window, "shift": shift, "score_mul": 0.0625, "softmax_inv": 40.0} | zeros
    attrs |= {"softmax_levels": 14, "mix_mul": 0.03125}
    op = Op("qwindow_attention", ("a",), "y", attrs, {"position_bias": "table", "softmax_offset": "offsets"})
    got = reference.step(op, [a], {"table": table, "offsets": offsets})
    for top, left, head in np.ndindex(h // window, w // window, heads):
        pixels = [(window * top + i, window * left + j) for i, j in np.ndindex(window, window)]
        q, k, v = (
            {p: a[(p[0] + shift) % h, (p[1] + shift) % w][start : start + depth].astype(int) for p in pixels}
            for start in (depth * (head + part * heads) for part in range(3))
        )
        for y, z in pixels:
            seen = [p for p in pixels if (p[0] >= h - shift, p[1] >= w - shift) == (y >= h - shift, z >= w - shift)]
            logits = []
            for p in seen:
                row = (y - p[0] + window - 1) * (2 * window - 1) + z - p[1] + window - 1
                product = sum((q[y, z] - 8) * (k[p] - 7))
                logits.append(fma(product, F(0.0625) * exact.LOG2_E, table[row, head] * exact.LOG2_E))
            weights, total = exact.exp2(np.array(logits, F) - max(logits)), F(0)
            for weight in weights:
                total = F(total + weight)
            steps = [fma(weight, F(F(40) / total), offsets[head]) for weight in weights]
            codes = [int(np.rint(min(max(step, 0), 14))) for step in steps]
            wanted = [
                F(sum((c - 1) * v[p][i] for c, p in zip(codes, seen, strict=True)) * 0.03125) for i in range(depth)
            ]
            at = got[(y + shift) % h, (z + shift) % w, head * depth : (head + 1) * depth]
            assert at.tolist() == wanted


def model_ops(model: PackedModel) -> dict[str, Op]:
    return {op.output: op for op in model.programs["full"].ops}


@pytest.mark.parametrize("bits", [2, 4])
def test_the_picture_loses_less_than_a_hundredth_of_a_decibel(bits: int, picture: Any) -> None:
    network, hr = network_of(bits), picture(48, 56)
    model = packed(network, bits, ("full",), PLACEMENT)
    lr = images.downscale(hr, 2)
    one = images.to_uint8(run_torch(network, images.to_float(lr), "full"))
    two = images.to_uint8(Engine(model)(images.to_float(lr)))
    assert abs(metrics.psnr(one, hr, 2) - metrics.psnr(two, hr, 2)) < 0.01
    assert np.mean(one != two) < 0.01


def test_what_is_hidden_stays_hidden() -> None:
    """A shift that gives a weight of 0 a code of its own does not let pixels on two sides of the border meet."""
    network = network_of(4)
    for name, parameter in network.named_parameters():
        if name.endswith("mixture.left_quantizer.shift"):
            parameter.data.fill_(0.5)
    image = np.random.default_rng(1).random((10, 9, 3), dtype=F)
    model = packed(network, 4, ("full",), PLACEMENT)
    assert all((model.tensors[n] > 1).all() for n in model.tensors if n.endswith("softmax_offset"))
    got = reference.run(model.programs["full"], model.tensors, image)
    np.testing.assert_allclose(got, run_torch(network, image, "full"), atol=1e-4)


# --- the file, the rules ---


def test_it_is_a_file_of_version_3() -> None:
    data = dumps(model_of(4))
    assert b'"version":"3"' in data[:80]


def test_readers_of_version_2_refuse_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dumps(model_of(4))
    monkeypatch.setattr(file, "_BEFORE_SHA", file._BEFORE_SHA[:2])
    monkeypatch.setattr(file, "VERSIONS", file.VERSIONS[:2])
    with pytest.raises(VersionError, match=r"format version: got b'3\",.*wanted 1 or 2\. Update quantsr"):
        loads(data)


def test_work_by_hand() -> None:
    model = model_of(3)
    found = cost(model.programs["full"], model.tensors, width=4, height=4)
    products = [layer for layer in found.layers if layer.name.endswith((".scores", ".mixture"))]
    assert len(products) == 2 * 8 and all(layer.weights == layer.biases == 0 for layer in products)
    assert all(layer.quantized and layer.macs == 16 * 16 * 12 for layer in products)
    assert sum(layer.bitops for layer in products) == 16 * 9 * 16 * 16 * 12


def test_widths_of_the_products_may_differ() -> None:
    model = model_of(4)
    op = model_ops(model)[ATTENTION]
    program = swapped(model, ATTENTION, attrs={**op.attrs, "softmax_levels": 3})
    layers = {layer.name: layer for layer in cost(program, model.tensors).layers}
    assert layers[f"{ATTENTION}.scores"].bitops == 16 * layers[f"{ATTENTION}.scores"].macs
    assert layers[f"{ATTENTION}.mixture"].bitops == 8 * layers[f"{ATTENTION}.mixture"].macs


def swapped(model: PackedModel, output: str, **changes: Any) -> Program:
    program = model.programs["full"]
    return replace(program, ops=tuple(replace(op, **changes) if op.output == output else op for op in program.ops))


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("shift", 4, FieldError, "shift: got 4, wanted less than the window, 4"),
        ("window", 17, FieldError, "window: got 17, wanted int, 1 to 16"),
        ("heads", 5, TensorError, "position_bias: got"),
        ("query_zero", 16, FieldError, "query_zero: got 16"),
        ("key_zero", -1, FieldError, "key_zero: got -1"),
        ("softmax_zero", 9, FieldError, "softmax_zero: got 9, wanted a code, 0 to 7"),
        ("softmax_inv", 0.0, FieldError, "softmax_inv: got 0.0"),
        ("score_mul", float("inf"), FieldError, "score_mul: got inf"),
        ("mix_mul", 1e-50, FieldError, "mix_mul: got 1e-50"),
    ],
)
def test_what_breaks_a_rule_is_refused(key: str, value: Any, error: type, message: str) -> None:
    model = model_of(4)
    attrs = {**model_ops(model)[ATTENTION].attrs, "softmax_levels": 7, key: value}
    with pytest.raises(error, match=message):
        check_program(swapped(model, ATTENTION, attrs=attrs), model.tensors, model.info)


def test_inputs_must_fit() -> None:
    model = model_of(4)
    with pytest.raises(GraphError, match="wanted codes"):
        check_program(swapped(model, ATTENTION, inputs=(f"{ATTENTION}.qkv",)), model.tensors, model.info)
    codes = model_ops(model)[f"{ATTENTION}.codes"]
    wide = swapped(model, codes.output, attrs={**codes.attrs, "levels": 255})
    with pytest.raises(GraphError, match="got 'codes up to 255', wanted codes up to 15"):
        check_program(wide, model.tensors, model.info)
    zero = swapped(model, codes.output, attrs={**codes.attrs, "levels": 7})
    with pytest.raises(FieldError, match="query_zero: got 8, wanted a code, 0 to 7"):
        check_program(zero, model.tensors, model.info)


def test_heads_have_at_most_256_channels() -> None:
    ops = (
        Op("pad", ("image",), "padded", {"multiple": 2}),
        Op("conv2d", ("padded",), "wide", {}, {"weight": "weight", "bias": "bias"}),
        Op("quantize", ("wide",), "codes", {"inv": 1.0, "levels": 15}, {"offset": "bias"}),
    )
    attrs = dict(model_ops(model_of(4))[ATTENTION].attrs) | {"heads": 1, "window": 2, "shift": 0}
    names = {"position_bias": "table", "softmax_offset": "one"}
    tensors = {"weight": np.zeros((771, 1, 1, 3), F), "bias": np.zeros(771, F)}
    tensors |= {"table": np.zeros((9, 1), F), "one": np.zeros(1, F)}
    program = Program((*ops, Op("qwindow_attention", ("codes",), "mixed", attrs, names)), "mixed")
    with pytest.raises(LimitError, match="channels of a head: got 257, wanted at most 256"):
        check_program(program, tensors, {"upscale": 2})


# --- which networks pack ---


def with_method(method: str) -> SwinIR:
    network = make_network(None)
    quantize(network, QuantConfig(4, 4, method, PLACEMENT))
    calibrate(network, [torch.rand(2, 3, 12, 12) for _ in range(3)])
    return network.eval()


@pytest.mark.parametrize("method", ["lsq", "pams"])
def test_other_methods(method: str) -> None:
    """PAMS has a range of 15 codes around zero, for what the softmax gives as well."""
    network, image = with_method(method), np.random.default_rng(1).random((11, 13, 3), dtype=F)
    quant = QuantConfig(4, 4, method, PLACEMENT)
    model = loads(dumps(lower(network, name="test", quant=quant)))
    expected = run_torch(network, image, "full")
    got = reference.run(model.programs["full"], model.tensors, image)
    assert Engine(model)(image).tobytes() == got.tobytes()
    assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
    np.testing.assert_allclose(run_torch(lift(model), image, "full"), expected, atol=1e-4)


def test_a_method_without_code_0_is_refused() -> None:
    with pytest.raises(NotPackable, match=r"attention\.mixture: got left codes \d+\.\.\d+, wanted 0 among them"):
        lower(with_method("ddtb"), name="test", quant=QuantConfig(4, 4, "ddtb", PLACEMENT))


def test_ranges_of_two_lengths_are_refused() -> None:
    network = with_method("pams")
    plain = make_network(4, PLACEMENT).body[0].layers[0].attention.mixture.right_quantizer
    network.body[0].layers[0].attention.mixture.right_quantizer = plain
    message = r"^body\.0\.layers\.0\.attention: got codes -7\.\.7 and -7\.\.7 and -8\.\.7 of queries, keys and values"
    with pytest.raises(NotPackable, match=message):
        lower(network, name="test", quant=QuantConfig(4, 4, "pams", PLACEMENT))


def test_one_quantized_product_is_refused() -> None:
    network = network_of(4)
    network.body[1].layers[0].attention.scores = make_network(None).body[0].layers[0].attention.scores
    with pytest.raises(NotPackable, match=r"^body\.1\.layers\.0\.attention: got one quantized product of attention"):
        lower(network, name="test", quant=QuantConfig(4, 4, placement=PLACEMENT))
