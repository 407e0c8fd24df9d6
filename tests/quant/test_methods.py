"""What every method of QUANTIZERS promises; the equations of each are in test_rivals.py and test_rlq.py."""

import copy
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.models.edsr import EDSR
from quantsr.packing.lower import lower
from quantsr.quant import (
    PLACEMENTS,
    QUANTIZERS,
    NotPackable,
    QuantConfig,
    Quantizer,
    calibrate,
    keep_valid,
    mismatch,
    penalty,
    quantize,
    quantized_layers,
    set_temperature,
)

BITS = pytest.mark.parametrize("bits", [2, 3, 4])
SIGNS = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
SHAPE = (2, 3, 12, 11)

# Method -> what has integer codes: weights, unsigned inputs, signed inputs; and whether a network packs.
CODES = {
    "rlq": (True, True, True, True),
    "lsq": (True, True, True, True),
    "dorefa": (False, True, False, False),
    "pact": (False, True, False, False),
    "pams": (True, True, True, True),
    "daq": (False, False, False, False),
    "ddtb": (True, True, True, False),
    "odm": (False, False, False, False),
}
METHODS = pytest.mark.parametrize("name", CODES)
DYNAMIC = ("daq",)  # levels of their own for each channel of each image


def samples(signed: bool, seed: int = 0) -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return x if signed else x.relu()


def act(name: str, bits: int, signed: bool) -> Quantizer:
    """A calibrated quantizer of an input of SHAPE."""
    quantizer = QUANTIZERS[name].act(QuantConfig(act_bits=bits, quantizer=name), SHAPE[1])
    for seed in (0, 1):
        quantizer.observe(samples(signed, seed))
    quantizer.finish_calibration()
    return quantizer


def weight(name: str, bits: int) -> tuple[Quantizer, Tensor]:
    value = 0.1 * torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(3))
    quantizer = QUANTIZERS[name].weight(QuantConfig(weight_bits=bits, quantizer=name), 8)
    quantizer.init_from(value)
    return quantizer, value


def network(name: str, bits: int = 4, **settings: object) -> EDSR:
    torch.manual_seed(0)
    made = EDSR(upscale=2, channels=8, blocks=2)
    config = QuantConfig(bits, bits, quantizer=name, **settings)  # type: ignore[arg-type]
    quantize(made, config)
    calibrate(made, [torch.rand(2, 3, 12, 12) for _ in range(2)])
    return made


def test_the_table_of_codes_is_complete() -> None:
    assert list(CODES) == list(QUANTIZERS), "a new method needs its line in CODES above"


def test_every_method_has_a_test_of_its_gradient() -> None:
    tests = "".join(Path(__file__).with_name(f"test_{name}.py").read_text() for name in ("rivals", "rlq"))
    for name in QUANTIZERS:
        wanted = "test_gradients_equal_the_closed_form" if name == "rlq" else f"test_{name}"
        assert f"def {wanted}" in tests, f"{name}: wanted a test of its closed-form gradient in test_rivals.py"


# ---- forward


@METHODS
@BITS
@SIGNS
def test_an_input_has_at_most_two_to_the_bits_levels(name: str, bits: int, signed: bool) -> None:
    x = samples(signed, seed=2)
    with torch.no_grad():
        quantized = act(name, bits, signed)(x)
    assert quantized.shape == x.shape and quantized.dtype == torch.float32
    parts = quantized.flatten(0, 1).flatten(1) if name in DYNAMIC else [quantized.flatten()]
    assert max(_levels(part) for part in parts) <= 2**bits
    if bits == 4:
        error = (quantized - x).square().mean() / x.square().mean()
        assert float(error) < 0.1


@METHODS
@BITS
def test_a_weight_has_at_most_two_to_the_bits_levels(name: str, bits: int) -> None:
    quantizer, value = weight(name, bits)
    with torch.no_grad():
        quantized = quantizer(value)
    assert quantized.shape == value.shape
    assert 3 <= _levels(quantized) <= 2**bits
    likeness = functional.cosine_similarity(quantized.flatten(), value.flatten(), dim=0)
    assert float(likeness) > (0.85 if bits > 2 else 0.6)


def _levels(x: Tensor) -> int:
    """Distinct values, up to float rounding."""
    ordered = x.flatten().sort().values
    return int((ordered.diff() > 1e-5 * float(ordered.abs().max())).sum()) + 1


@METHODS
@BITS
@SIGNS
def test_codes_times_step_is_the_forward_value(name: str, bits: int, signed: bool) -> None:
    quantizer, x = act(name, bits, signed), samples(signed, seed=2)
    weights, value = weight(name, bits)
    for subject, tensor, has in ((quantizer, x, CODES[name][1 + signed]), (weights, value, CODES[name][0])):
        if not has:
            with pytest.raises(NotPackable, match="codes"):
                subject.codes(tensor)
            continue
        codes, params = subject.codes(tensor)
        assert codes.dtype == torch.int8 and params.scale.dtype == torch.float64
        assert params.bits == bits and params.qmax - params.qmin < 2**bits
        assert params.qmin <= int(codes.min()) and int(codes.max()) <= params.qmax
        torch.testing.assert_close((codes * params.scale).float(), subject(tensor).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name not in DYNAMIC])
@SIGNS
@torch.no_grad()
def test_quantizing_twice_changes_nothing(name: str, signed: bool) -> None:
    quantizer = act(name, 3, signed)
    once = quantizer(samples(signed, seed=2))
    torch.testing.assert_close(quantizer(once), once)


@METHODS
@SIGNS
def test_low_precision_is_left_behind(name: str, signed: bool) -> None:
    quantizer, x = act(name, 4, signed), samples(signed).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(x)
    assert quantized.dtype == torch.float32 and torch.equal(quantized, quantizer(x.float()))
    quantized.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert quantizer.double()(x.double()).dtype == torch.float64


@METHODS
@BITS
@SIGNS
def test_gradients_are_finite_and_reach_what_is_learned(name: str, bits: int, signed: bool) -> None:
    weights, value = weight(name, bits)
    for quantizer, x in ((act(name, bits, signed), 2 * samples(signed, seed=2)), (weights, value.clone())):
        x.requires_grad_()
        quantizer(x).square().sum().backward()
        assert bool(torch.isfinite(x.grad).all()) and float(x.grad.abs().sum()) > 0
        for part, parameter in quantizer.named_parameters():
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), part
            assert float(parameter.grad.abs().sum()) > 0, part


@METHODS
@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_a_constant_input_is_no_accident(name: str, constant: float) -> None:
    quantizer = QUANTIZERS[name].act(QuantConfig(quantizer=name), SHAPE[1])
    x = torch.full(SHAPE, constant, requires_grad=True)
    quantizer.observe(x)
    quantizer.finish_calibration()
    quantized = quantizer(x)
    quantized.sum().backward()
    assert bool(torch.isfinite(quantized).all()) and bool(torch.isfinite(x.grad).all())
    quantizer = QUANTIZERS[name].weight(QuantConfig(quantizer=name), 4)
    quantizer.init_from(torch.zeros(4, 4, 3, 3))
    assert bool(torch.isfinite(quantizer(torch.zeros(4, 4, 3, 3))).all())


# ---- calibration and state


@METHODS
def test_an_input_quantizer_needs_calibration(name: str) -> None:
    quantizer = QUANTIZERS[name].act(QuantConfig(quantizer=name), SHAPE[1])
    with pytest.raises(RuntimeError, match=r"got an uncalibrated quantizer: run calibrate\(\)"):
        quantizer(torch.zeros(SHAPE))
    with pytest.raises(RuntimeError, match="calibration saw no batch"):
        quantizer.finish_calibration()


@METHODS
@SIGNS
def test_calibration_finds_the_sign(name: str, signed: bool) -> None:
    assert act(name, 4, signed).signed == signed


@METHODS
def test_observing_passes_values_through(name: str) -> None:
    quantizer, x = act(name, 4, True), samples(True)
    quantizer.observing = True
    assert torch.equal(quantizer(x), x)


@METHODS
@BITS
def test_state_round_trips_through_safetensors(name: str, bits: int, tmp_path: Path) -> None:
    source = network(name, bits)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "a.safetensors")
    again = EDSR(upscale=2, channels=8, blocks=2)
    quantize(again, QuantConfig(bits, bits, quantizer=name))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "a.safetensors"))
    x = torch.rand(1, 3, 9, 11)
    assert torch.equal(again(x), source(x))


@METHODS
def test_bits_out_of_range_are_refused(name: str) -> None:
    for bits in (1, 8):
        config = QuantConfig(quantizer=name)
        object.__setattr__(config, "act_bits", bits)
        with pytest.raises(ValueError, match=f"got {bits} bits"):
            QUANTIZERS[name].act(config, 3)


# ---- training


@METHODS
@BITS
def test_training_reduces_the_loss(name: str, bits: int) -> None:
    made = network(name, bits)
    x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    wanted = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    optimizer = torch.optim.Adam(made.parameters(), 2e-3)
    losses = []
    for _ in range(25):
        loss = functional.l1_loss(made(x), wanted)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        (loss + penalty(made) + mismatch(made)).backward()
        optimizer.step()
        keep_valid(made)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@METHODS
def test_a_copy_can_be_taken_while_training(name: str) -> None:
    made = network(name)
    x = torch.rand(1, 3, 8, 8)
    made(x).sum().backward()
    assert torch.equal(copy.deepcopy(made)(x), made(x))


@METHODS
def test_what_an_optimiser_spoils_is_brought_back(name: str) -> None:
    made = network(name)
    learned = [p for path, p in made.named_parameters() if "quantizer" in path and not path.endswith("shift")]
    for parameter in learned:
        parameter.data.fill_(-1.0)
    keep_valid(made)
    assert bool(torch.isfinite(made(torch.rand(1, 3, 8, 8))).all())
    if name not in ("ddtb", "odm"):  # whose lower bounds may be negative
        assert all(bool((p > 0).all()) for p in learned)


# ---- penalty, temperature, options


@METHODS
def test_penalty_and_mismatch_are_scalars_or_nothing(name: str) -> None:
    made = network(name)
    made(torch.rand(1, 3, 8, 8))
    for value, method in ((penalty(made), "pact"), (mismatch(made), "odm")):
        if name == method:
            assert isinstance(value, Tensor) and value.shape == () and float(value.detach()) > 0
            value.backward()
        else:
            assert value == 0.0


@METHODS
def test_only_rlq_has_a_temperature(name: str) -> None:
    made = network(name)
    if name == "rlq":
        set_temperature(made, 3.0)
        layers = quantized_layers(made).values()
        assert {q.temperature for layer in layers for q in (layer.act_quantizer, layer.weight_quantizer)} == {3.0}
    else:
        with pytest.raises(ValueError, match=r"got temperature 3\.0, wanted none"):
            set_temperature(made, 3.0)
    with pytest.raises(ValueError, match="got temperature -1"):
        set_temperature(made, -1)


OTHER = {
    "temperature": 2.0,
    "weight_granularity": "per_channel",
    "act_shift": "none",
    "weight_shift": True,
    "weight_grid": "mid_rise",
    "range_init": "percentile",
}


def test_every_option_is_tried() -> None:
    plain = {"weight_bits", "act_bits", "quantizer", "placement"}
    assert {field.name for field in dataclasses.fields(QuantConfig)} - plain == set(OTHER)


@METHODS
@pytest.mark.parametrize("option", OTHER)
def test_an_option_works_or_is_refused(name: str, option: str) -> None:
    if option in QUANTIZERS[name].options:
        made = network(name, **{option: OTHER[option]})
        assert bool(torch.isfinite(made(torch.rand(1, 3, 8, 8))).all())
        return
    with pytest.raises(ValueError, match=f"got {option} .* for quantizer '{name}', wanted .*, the default"):
        quantize(EDSR(channels=8, blocks=1), QuantConfig(quantizer=name, **{option: OTHER[option]}))  # type: ignore[arg-type]


@pytest.mark.slow
@METHODS
@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if not name.startswith("linears")])
def test_a_compiled_block_trains_as_an_eager_one(name: str, placement: str) -> None:
    torch.compiler.reset()
    eager = network(name, placement=placement)
    compiled = copy.deepcopy(eager)
    compiled.body[0].compile(backend="aot_eager")
    x = torch.randn(2, 8, 9, 10)
    for made in (eager, compiled):
        (made.body[0](x).square().mean() + penalty(made) + mismatch(made)).backward()
    for (path, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=path)


# ---- packing


@METHODS
def test_a_network_is_packed_or_refused_in_a_sentence(name: str) -> None:
    made = network(name)
    quant = QuantConfig(quantizer=name)
    if CODES[name][3]:
        assert lower(made, name="test", quant=quant).info["quantizer"] == name
        return
    with pytest.raises(NotPackable, match=r"^body\.0\.conv1: .*codes") as caught:
        lower(made, name="test", quant=quant)
    assert "\n" not in str(caught.value)


def test_quantizers_are_modules_of_one_interface() -> None:
    for name in QUANTIZERS:
        for quantizer in (act(name, 4, True), weight(name, 4)[0]):
            assert isinstance(quantizer, Quantizer) and isinstance(quantizer, nn.Module)
