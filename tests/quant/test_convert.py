import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinIR
from quantsr.quant import (
    PLACEMENTS,
    QuantConfig,
    QuantConv2d,
    calibrate,
    describe_placement,
    keep_valid,
    quantize,
    quantized_layers,
)
from quantsr.quant.config import code_range
from quantsr.quant.pams import PAMSInput

BODY = [f"body.{block}.{conv}" for block in range(2) for conv in ("conv1", "conv2")]


@pytest.fixture
def network() -> EDSR:
    torch.manual_seed(0)
    return EDSR(upscale=2, channels=8, blocks=2)


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, 12, 10, generator=generator) for _ in range(3)]


# ---- placement


def test_body_picks_exactly_the_convolutions_of_the_blocks(network: EDSR) -> None:
    assert quantize(network, QuantConfig()) == BODY
    assert list(quantized_layers(network)) == BODY
    kinds = {name: type(module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert [name for name, kind in kinds.items() if kind is QuantConv2d] == BODY
    assert [name for name, kind in kinds.items() if kind is nn.Conv2d] == ["head", "after_body", "upsampler.0"]


def test_placements_are_asked_by_name_and_kind(network: EDSR) -> None:
    picked = [name for name, module in network.named_modules() if PLACEMENTS["body"].picks(name, module)]
    assert picked == BODY


def test_daq_places_as_body_does() -> None:
    assert PLACEMENTS["daq"] is PLACEMENTS["body"]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_placement_is_told_in_words(name: str) -> None:
    assert "weights" in describe_placement(name) and "\n" not in describe_placement(name)


def test_an_unknown_placement_is_not_described() -> None:
    with pytest.raises(ValueError, match="got placement 'tail', wanted one of body"):
        describe_placement("tail")


BLOCKS = ["pams", "cadyq"]
QUANTIZED = {  # placement -> the activation quantizers of a block that quantize
    "pams": {"conv2.act_quantizer", "shortcut_quantizer", "branch_quantizer"},
    "cadyq": {"input_quantizer", "conv2.act_quantizer", "branch_quantizer"},
}


@pytest.mark.parametrize("placement", BLOCKS)
def test_block_placements_quantize_what_their_codes_do(network: EDSR, batches: list[Tensor], placement: str) -> None:
    assert quantize(network, QuantConfig(placement=placement, quantizer="pams")) == ["body.0", "body.1"]
    assert list(quantized_layers(network)) == BODY
    calibrate(network, batches)
    block = network.body[0]
    found = {name for name, module in block.named_modules() if isinstance(module, PAMSInput)}
    assert found == QUANTIZED[placement]
    x = torch.randn(1, 8, 6, 7)

    def conv(layer: QuantConv2d, value: Tensor) -> Tensor:
        return functional.conv2d(value, layer.weight_quantizer(layer.weight), layer.bias, padding=1)

    start = block.input_quantizer(x) if placement == "cadyq" else x
    branch = conv(block.conv2, block.conv2.act_quantizer(conv(block.conv1, start).relu()))
    shortcut = block.shortcut_quantizer(x) if placement == "pams" else start
    torch.testing.assert_close(block(x), block.gain * shortcut + block.branch_quantizer(branch))


@pytest.mark.parametrize("placement", BLOCKS)
def test_a_block_keeps_its_names_weights_and_depths(network: EDSR, batches: list[Tensor], placement: str) -> None:
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.rand(1, 3, 8, 8)
    wanted = network(x, depth="half")
    quantize(network, QuantConfig(placement=placement))
    assert [float(block.gain.detach()) for block in network.body] == [1.0, 1.0]
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.items())
    calibrate(network, batches)
    half = network(x, depth="half")
    assert half.shape == wanted.shape and not torch.equal(half, wanted)
    half.sum().backward()


@pytest.mark.parametrize("placement", BLOCKS)
def test_a_block_calibrates_on_the_float_network(network: EDSR, batches: list[Tensor], placement: str) -> None:
    plain = copy.deepcopy(network)
    quantize(network, QuantConfig(2, 2, placement=placement))
    outputs: list[Tensor] = []
    handle = network.register_forward_hook(lambda _, __, output: outputs.append(output))
    calibrate(network, batches)
    handle.remove()
    assert all(torch.equal(output, plain(batch)) for output, batch in zip(outputs, batches, strict=True))


@pytest.mark.parametrize("placement", BLOCKS)
def test_other_networks_have_no_such_blocks(placement: str) -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))})
    with pytest.raises(ValueError, match=f"placement '{placement}' picks no layer"):
        quantize(model, QuantConfig(placement=placement))


def test_swapping_shares_weight_and_bias(network: EDSR) -> None:
    before = {name: (m.weight, m.bias) for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    quantize(network, QuantConfig())
    for name, layer in quantized_layers(network).items():
        assert layer.weight is before[name][0] and layer.bias is before[name][1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_layer_owns_its_quantizers(network: EDSR, bits: int) -> None:
    quantize(network, QuantConfig(weight_bits=bits, act_bits=4, temperature=2.0))
    seen = set()
    for layer in quantized_layers(network).values():
        assert (layer.weight_quantizer.bits, layer.act_quantizer.bits) == (bits, 4)
        assert layer.weight_quantizer.shift is None
        assert layer.act_quantizer.shift.shape == (8,) and not layer.act_quantizer.shift.any()
        assert layer.weight_quantizer.temperature == layer.act_quantizer.temperature == 2.0
        assert layer.weight_quantizer.calibrated and not layer.act_quantizer.calibrated
        seen |= {id(layer.weight_quantizer), id(layer.act_quantizer)}
    assert len(seen) == 8


def test_a_block_gains_two_steps_and_a_shift_per_convolution(network: EDSR) -> None:
    before = sum(p.numel() for p in network.parameters())
    quantize(network, QuantConfig())
    assert sum(p.numel() for p in network.parameters()) - before == 4 * (2 + 8)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"quantizer": "magic"}, "got quantizer 'magic', wanted one of rlq"),
        ({"placement": "tail"}, "got placement 'tail', wanted one of body"),
    ],
)
def test_unknown_names_are_refused(network: EDSR, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(network, dataclasses.replace(QuantConfig(), **settings))


def test_quantizing_twice_is_refused(network: EDSR) -> None:
    quantize(network, QuantConfig())
    with pytest.raises(ValueError, match="placement 'body' picks no layer of EDSR"):
        quantize(network, QuantConfig())


@pytest.mark.parametrize(
    "settings",
    [{"bias": False}, {"groups": 2}, {"stride": 2}, {"padding_mode": "reflect"}, {"dilation": 2}],
    ids=str,
)
def test_convolutions_that_cannot_be_run_are_refused(settings: dict[str, object]) -> None:
    block = nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3, padding=1, **settings)})  # type: ignore[arg-type]
    model = nn.ModuleDict({"body": nn.Sequential(block)})
    with pytest.raises(ValueError, match=r"got Conv2d\(.*, wanted a dense"):
        quantize(model, QuantConfig())


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_bits": 1},
        {"act_bits": 5},
        {"temperature": -0.5},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"weight_granularity": "per_group"},
        {"act_shift": "yes"},
        {"range_init": "max"},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"got .*, wanted"):
        QuantConfig(**settings)  # type: ignore[arg-type]


# ---- calibration


def test_calibration_runs_the_float_network(network: EDSR, batches: list[Tensor]) -> None:
    plain = copy.deepcopy(network)
    quantize(network, QuantConfig(weight_bits=2, act_bits=2))
    outputs: list[Tensor] = []
    handle = network.register_forward_hook(lambda _, __, output: outputs.append(output))
    calibrate(network, batches)
    handle.remove()
    assert all(torch.equal(output, plain(batch)) for output, batch in zip(outputs, batches, strict=True))
    assert not torch.equal(network(batches[0]), plain(batches[0]))


@pytest.mark.parametrize("bits", [2, 4])
def test_calibration_decides_sign_and_step_of_each_layer(network: EDSR, batches: list[Tensor], bits: int) -> None:
    inputs: dict[str, list[Tensor]] = {name: [] for name in BODY}
    for name in BODY:
        network.get_submodule(name).register_forward_hook(lambda _, args, __, name=name: inputs[name].append(args[0]))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    quantize(network, QuantConfig(act_bits=bits))
    calibrate(network, batches)
    for name, layer in quantized_layers(network).items():
        quantizer = layer.act_quantizer
        assert quantizer.signed == name.endswith("conv1")  # conv2 reads what the ReLU leaves
        qmax = code_range(bits, quantizer.signed)[1]
        mean = float(torch.cat(inputs[name]).abs().mean())
        assert quantizer.scale.item() == pytest.approx(2 * mean / qmax**0.5, rel=1e-5)
        assert not quantizer.observing


def test_running_before_calibration_is_an_error(network: EDSR) -> None:
    quantize(network, QuantConfig())
    with pytest.raises(RuntimeError, match="uncalibrated"):
        network(torch.rand(1, 3, 8, 8))


def test_calibration_needs_a_batch(network: EDSR) -> None:
    quantize(network, QuantConfig())
    with pytest.raises(RuntimeError, match="calibration saw no batch"):
        calibrate(network, [])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_calibrated_network_needs_no_batch(network: EDSR, batches: list[Tensor], placement: str) -> None:
    if placement.startswith("linears"):
        network = SwinIR(upscale=2, channels=8, blocks=1, layers=1, heads=2, window=4)
    quantize(network, QuantConfig(placement=placement))
    calibrate(network, batches)
    drawn = iter(batches)
    calibrate(network, drawn)
    assert len(list(drawn)) == len(batches)


def test_a_failed_calibration_leaves_no_float_network(network: EDSR, batches: list[Tensor]) -> None:
    def failing() -> Iterator[Tensor]:
        yield batches[0]
        raise OSError("disk")

    quantize(network, QuantConfig())
    with pytest.raises(OSError, match="disk"):
        calibrate(network, failing())
    with pytest.raises(RuntimeError, match="uncalibrated"):
        network(batches[0])
    calibrate(network, batches)
    assert network(batches[0]).isfinite().all()


# ---- execution


@pytest.fixture
def quantized(network: EDSR, batches: list[Tensor]) -> EDSR:
    quantize(network, QuantConfig(weight_bits=3, act_bits=3))
    calibrate(network, batches)
    for layer in quantized_layers(network).values():  # as if it had been trained
        layer.act_quantizer.shift.data.uniform_(-0.3, 0.3)
    return network


def test_a_layer_is_an_integer_convolution(quantized: EDSR) -> None:
    layer = quantized_layers(quantized)["body.0.conv1"]
    x = torch.randn(1, 8, 6, 7)
    codes, act = layer.act_quantizer.codes(x)
    weight_codes, weight = layer.weight_quantizer.codes(layer.weight)
    sums = functional.conv2d(codes.double(), weight_codes.double(), padding=1)
    wanted = sums * (act.scale * weight.scale) + layer.bias.double().view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_padded_pixel_is_code_zero(quantized: EDSR) -> None:
    layer = quantized_layers(quantized)["body.0.conv1"]
    layer.act_quantizer.shift.data.fill_(3 * layer.act_quantizer.scale.item())
    x = torch.zeros(1, 8, 5, 5)
    codes, _ = layer.act_quantizer.codes(x)
    assert codes.unique().tolist() == [3]  # zero is not code 0 any more
    weight = layer.weight_quantizer(layer.weight)
    inside = 3 * layer.act_quantizer.scale
    corner = inside * weight[:, :, 1:, 1:].sum(dim=(1, 2, 3)) + layer.bias
    middle = inside * weight.sum(dim=(1, 2, 3)) + layer.bias
    result = layer(x)[0]
    torch.testing.assert_close(result[:, 0, 0], corner)
    torch.testing.assert_close(result[:, 2, 2], middle)
    assert not torch.allclose(corner, middle)


def test_state_round_trips_through_safetensors(quantized: EDSR, tmp_path: Path) -> None:
    safetensors.torch.save_file(quantized.state_dict(), tmp_path / "a.safetensors")
    again = EDSR(upscale=2, channels=8, blocks=2)
    quantize(again, QuantConfig(weight_bits=3, act_bits=3))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "a.safetensors"))
    x = torch.rand(1, 3, 9, 11)
    assert torch.equal(again(x), quantized(x))
    flags = [(layer.act_quantizer.calibrated, layer.act_quantizer.signed) for layer in quantized_layers(again).values()]
    assert flags == [(True, True), (True, False)] * 2


def test_a_copy_is_independent_and_equal(quantized: EDSR) -> None:
    twin = copy.deepcopy(quantized)
    x = torch.rand(1, 3, 9, 11)
    wanted = quantized(x)
    quantized.body[0].conv1.act_quantizer.scale.data.mul_(2)
    assert torch.equal(twin(x), wanted)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_every_parameter_learns(quantized: EDSR, autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sr = quantized(torch.rand(2, 3, 9, 11))
    sr.float().square().mean().backward()
    for name, parameter in quantized.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_autocast_stays_close(quantized: EDSR) -> None:
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rough = quantized(x)
    assert float((rough.float() - quantized(x)).abs().mean()) < 0.02


@pytest.mark.slow
def test_a_compiled_block_equals_eager(quantized: EDSR) -> None:
    torch.compiler.reset()
    x = torch.randn(2, 8, 9, 11)
    eager = quantized.body[0](x)
    quantized.body[0].compile()
    torch.testing.assert_close(quantized.body[0](x), eager, rtol=1e-5, atol=1e-6)


def test_a_step_that_would_turn_negative_is_held_above_zero(quantized: EDSR) -> None:
    layer = quantized.body[0].conv2
    layer.act_quantizer.scale.data.fill_(-0.1)
    keep_valid(quantized)
    assert float(layer.act_quantizer.scale.detach()) > 0
    assert bool(torch.isfinite(layer(torch.rand(1, 8, 5, 5))).all())
