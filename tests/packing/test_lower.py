"""A network of torch, lowered to ops, computes the same; lifted back, it is the same network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from quantsr import reference
from quantsr.engine import Engine, available_isas
from quantsr.models import EDSR
from quantsr.packing import dumps, loads
from quantsr.packing.lift import lift
from quantsr.packing.lower import lower
from quantsr.packing.ops import QCONVS, weight_codes
from quantsr.packing.program import PackedModel, TensorError
from quantsr.quant import NotPackable, QuantConfig, calibrate, quantize, quantized_layers
from quantsr.quant.ddtb import DDTBInput

DEPTHS = ("full", "half", "quarter")


def make_network(
    bits: int | None = 4,
    upscale: int = 2,
    upsampler: str = "direct",
    ranking: tuple[int, ...] = (2, 0, 1, 3),
    **settings: Any,
) -> EDSR:
    """A calibrated random network with gains and shifts away from their initial values. bits None: float.

    settings: of QuantConfig.
    """
    torch.manual_seed(0)
    network = EDSR(channels=8, blocks=4, upscale=upscale, upsampler=upsampler, ranking=ranking)
    for block in network.body:
        block.gain.data.uniform_(0.7, 1.3)
    if bits is not None:
        quantize(network, QuantConfig(bits, bits, **settings))
        calibrate(network, [torch.rand(2, 3, 12, 12) for _ in range(3)])
        for name, parameter in network.named_parameters():
            if name.endswith("act_quantizer.shift"):
                parameter.data.normal_(0, 0.05)
            elif name.endswith("weight_quantizer.shift"):
                parameter.data.fill_(0.03)
    return network.eval()


def packed(network: EDSR, bits: int | None = 4, depths: tuple[str, ...] = DEPTHS) -> PackedModel:
    quant = None if bits is None else QuantConfig(bits, bits)
    return loads(dumps(lower(network, name="test", quant=quant, depths=depths)))


def run_torch(network: EDSR, image: np.ndarray, depth: str) -> np.ndarray:
    with torch.no_grad():
        x = torch.from_numpy(image).permute(2, 0, 1)[None]
        return network(x, depth=depth)[0].permute(1, 2, 0).numpy()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).random((11, 13, 3), dtype=np.float32)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("upsampler", ["direct", "paper"])
@pytest.mark.parametrize("bits", [2, 3, 4, None], ids=["2-bit", "3-bit", "4-bit", "float"])
def test_reference_runs_what_torch_trained(
    bits: int | None, upsampler: str, upscale: int, depth: str, image: np.ndarray
) -> None:
    network = make_network(bits, upscale, upsampler)
    model = packed(network, bits)
    expected = run_torch(network, image, depth)
    got = reference.run(model.programs[depth], model.tensors, image)
    # A float sum on a rounding boundary may flip a code; nearly all values agree to float rounding.
    assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
    assert np.abs(got - expected).max() < 0.1


@pytest.mark.parametrize("ranking", [(2, 0, 1, 3), (0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_skipped_blocks_fold_wherever_they_are(ranking: tuple[int, ...], image: np.ndarray) -> None:
    network = make_network(ranking=ranking)
    model = packed(network)
    for depth in DEPTHS:
        got = reference.run(model.programs[depth], model.tensors, image)
        np.testing.assert_allclose(got, run_torch(network, image, depth), atol=1e-4)


def test_a_shallower_program_runs_fewer_convolutions() -> None:
    model = packed(make_network())
    counts = {d: sum(op.kind == "qconv2d" for op in p.ops) for d, p in model.programs.items()}
    assert counts == {"full": 8, "half": 4, "quarter": 2}


def test_stored_codes_are_the_quantizers_codes() -> None:
    network = make_network(bits=3)
    model = packed(network, bits=3)
    ops = {op.output: op for op in model.programs["full"].ops}
    for name, layer in quantized_layers(network).items():
        codes, _ = layer.weight_quantizer.codes(layer.weight)
        stored = weight_codes(ops[name], model.tensors[ops[name].tensors["weight"]])
        np.testing.assert_array_equal(stored, codes.permute(0, 2, 3, 1).numpy())


def test_file_size_falls_with_the_bits() -> None:
    sizes = [len(dumps(packed(make_network(bits), bits))) for bits in (2, 3, 4, None)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("bits", [2, 4, None], ids=["2-bit", "4-bit", "float"])
def test_lift_undoes_lower(bits: int | None, image: np.ndarray) -> None:
    network = make_network(bits)
    again = lift(packed(network, bits))
    for depth in DEPTHS:
        np.testing.assert_allclose(run_torch(again, image, depth), run_torch(network, image, depth), atol=1e-4)
    for name, layer in quantized_layers(again).items():
        twin = quantized_layers(network)[name]
        assert layer.act_quantizer.signed == twin.act_quantizer.signed
        assert torch.equal(layer.weight_quantizer.codes(layer.weight)[0], twin.weight_quantizer.codes(twin.weight)[0])


@pytest.mark.parametrize("depth,half,quarter", [("quarter", 6, 5), ("quarter", 2, 1), ("half", 1, 1), ("half", 6, 5)])
def test_lift_does_without_a_depth(depth: str, half: int, quarter: int, image: np.ndarray) -> None:
    network = EDSR(channels=4, blocks=8, upscale=2, half=half, quarter=quarter).eval()
    again = lift(packed(network, None, ("full", depth)))
    for name in ("full", depth):
        np.testing.assert_allclose(run_torch(again, image, name), run_torch(network, image, name), atol=1e-4)
    assert len(again.kept("quarter")) <= len(again.kept("half"))


def test_nothing_non_finite_is_packed() -> None:
    network = make_network()
    network.head.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(TensorError, match=r"^tensor 'head\.weight': got 'NaN or infinity', wanted finite values\.$"):
        lower(network, name="test", quant=QuantConfig())


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("quantizer", ["rlq", "pams"])
def test_no_codes_of_non_finite_weights_are_packed(quantizer: str, value: float) -> None:
    network = make_network(quantizer=quantizer)
    network.body[1].conv2.weight.data[0, 0, 0, 0] = value
    with pytest.raises(TensorError, match=r"^body\.1\.conv2\.weight: got NaN or infinity, wanted finite values$"):
        lower(network, name="test", quant=QuantConfig(quantizer=quantizer))


VARIANTS = {
    "per-channel steps": {"weight_granularity": "per_channel"},
    "shifted weights": {"weight_shift": True},
    "one shift": {"act_shift": "per_tensor"},
    "no shift": {"act_shift": "none"},
    "mid-rise weights": {"weight_grid": "mid_rise"},
    "mid-rise weights, per-channel steps": {"weight_grid": "mid_rise", "weight_granularity": "per_channel"},
    "from percentiles": {"range_init": "percentile"},
    "from the least error": {"range_init": "least_error"},
    "lsq": {"quantizer": "lsq"},
    "pams": {"quantizer": "pams"},
    "lsq, per-channel steps": {"quantizer": "lsq", "weight_granularity": "per_channel"},
}


@pytest.mark.parametrize(
    "variant,bits", [(v, bits) for v in VARIANTS for bits in (2, 3, 4) if bits < 4 or not v.startswith("mid-rise")]
)
def test_variants_are_packed_run_and_lifted(variant: str, bits: int, image: np.ndarray) -> None:
    network = make_network(bits, **VARIANTS[variant])
    model = loads(dumps(lower(network, name="test", quant=QuantConfig(bits, bits, **VARIANTS[variant]))))
    muls = [model.tensors[op.tensors["mul"]] for op in model.programs["full"].ops if op.kind in QCONVS]
    assert all((len(np.unique(mul)) > 1) == ("per-channel" in variant) for mul in muls)
    expected = run_torch(network, image, "full")
    got = reference.run(model.programs["full"], model.tensors, image)
    assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
    assert np.abs(got - expected).max() < 0.1
    again = lift(model)
    np.testing.assert_allclose(run_torch(again, image, "full"), expected, atol=1e-4)
    for name, layer in quantized_layers(again).items():
        twin = quantized_layers(network)[name]
        assert torch.equal(layer.weight_quantizer.codes(layer.weight)[0], twin.weight_quantizer.codes(twin.weight)[0])


@pytest.mark.parametrize("bits", [2, 3])
def test_a_mid_rise_grid_has_odd_codes_of_as_many_bits(bits: int, image: np.ndarray) -> None:
    network = make_network(bits, weight_grid="mid_rise")
    model = packed(network, bits)
    odd = [op for op in model.programs["full"].ops if op.kind == "odd_qconv2d"]
    assert [op.output for op in odd] == list(quantized_layers(network))
    for op in odd:
        codes = weight_codes(op, model.tensors[op.tensors["weight"]])
        assert len(np.unique(codes)) > 2 ** (bits - 1)
        assert set(codes.ravel().tolist()) <= set(range(1 - 2**bits, 2**bits, 2))
    plain, data = packed(make_network(bits), bits), dumps(model)
    assert b'"version":"2"' in data[:200]
    names = len(b"odd_") * sum(op.kind == "odd_qconv2d" for p in model.programs.values() for op in p.ops)
    assert abs(len(data) - len(dumps(plain)) - names) < 200  # the digits of floats in JSON
    wanted = reference.run(model.programs["full"], model.tensors, image)
    for isa in available_isas():
        np.testing.assert_allclose(Engine(model, isa=isa)(image), wanted, atol=1e-5)


def test_a_mid_rise_grid_of_4_bits_is_refused() -> None:
    with pytest.raises(
        NotPackable, match=r"^body\.0\.conv1: got a mid-rise grid of 4-bit weights, wanted one of \(2, 3\)"
    ):
        packed(make_network(4, weight_grid="mid_rise"), 4)


@pytest.mark.parametrize("placement", ["pams", "cadyq"])
def test_a_block_that_quantizes_more_than_inputs_is_refused(placement: str) -> None:
    network = make_network(placement=placement)
    with pytest.raises(NotPackable, match=r"^body\.0: got a block that quantizes its shortcut or output, wanted "):
        lower(network, name="test", quant=QuantConfig(placement=placement))


def test_codes_that_the_format_cannot_say_are_refused() -> None:
    with pytest.raises(NotPackable, match=r"^body\.0\.conv1: got weight codes -\d+\.\.\d+, wanted some of -8\.\.7"):
        lower(make_network(quantizer="ddtb"), name="test", quant=QuantConfig(quantizer="ddtb"))


def test_an_input_without_a_code_for_zero_is_refused() -> None:
    network = make_network()
    layer = quantized_layers(network)["body.1.conv2"]
    layer.act_quantizer = DDTBInput(QuantConfig(), 8)
    layer.act_quantizer.calibrated = True
    for low, high in ((-0.5, 1.0), (0.5, 2.0)):
        layer.act_quantizer.low.data.fill_(low)
        layer.act_quantizer.high.data.fill_(high)
        if low < 0:
            ops = {op.output: op for op in lower(network, name="test", quant=QuantConfig()).programs["full"].ops}
            assert (ops["body.1.conv2"].attrs["zero"], ops["body.1.conv2.codes"].attrs["levels"]) == (5, 15)
            continue
        with pytest.raises(NotPackable, match=r"^body\.1\.conv2: got input codes 5\.\.20, wanted 0 among them"):
            lower(network, name="test", quant=QuantConfig())


def layer_inputs(network: EDSR, image: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
    """The input of every quantized layer in a forward pass."""
    seen: dict[str, torch.Tensor] = {}
    for name, layer in quantized_layers(network).items():
        layer.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0]))
    run_torch(network, image, "full")
    yield from seen.items()
