"""The closed forms are those of the method: gradients inside, below and above the range, and the step's gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quantsr.quant import RLQ, QParams, QuantConfig, rlq
from quantsr.quant.config import code_range
from quantsr.quant.observed import Observed

TEMPERATURES = [0.0, 1.0, 2.0, 4.0]
BITS = [2, 3, 4]
SIGNS = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
SHIFT = [0.3, -0.2, 0.05]


def ready(
    bits: int = 4,
    *,
    signed: bool = True,
    scale: float = 0.37,
    temperature: float = 1.0,
    shift: list[float] | None = None,
) -> RLQ:
    """A calibrated quantizer of given state."""
    quantizer = RLQ(bits, temperature=temperature, shift_channels=None if shift is None else len(shift))
    quantizer.calibrated, quantizer.signed = True, signed
    quantizer.scale.data.fill_(scale)
    if quantizer.shift is not None:
        quantizer.shift.data.copy_(torch.tensor(shift))
    return quantizer


def mid_rise(bits: int, *, scale: float = 0.37, temperature: float = 1.0) -> RLQ:
    """A quantizer of weights on the grid without 0."""
    quantizer = RLQ(bits, temperature=temperature, mid_rise=True)
    quantizer.calibrated = True
    quantizer.scale.data.fill_(scale)
    return quantizer


def samples(quantizer: RLQ, shape: tuple[int, ...] = (2, 3, 7, 9)) -> Tensor:
    """float64 values from well below to well above the quantizer's range."""
    qmin, qmax = code_range(quantizer.bits, quantizer.signed)
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(shape, generator=generator, dtype=torch.float64) * (qmax - qmin + 6) + qmin - 3
    return u * quantizer.scale.item()


# ---- forward


@pytest.mark.parametrize("bits", BITS)
@SIGNS
def test_codes_are_integers_of_the_range(bits: int, signed: bool) -> None:
    quantizer = ready(bits, signed=signed, shift=SHIFT)
    codes, params = quantizer.codes(samples(quantizer, (4, 3, 40, 40)).float())
    assert codes.dtype == torch.int8
    assert (params.bits, params.qmin, params.qmax) == (bits, *code_range(bits, signed))
    assert codes.unique().tolist() == list(range(params.qmin, params.qmax + 1))
    assert len(codes.unique()) == 2**bits


@pytest.mark.parametrize(
    "bits,signed,wanted",
    [
        (2, True, (-2, 1)),
        (2, False, (0, 3)),
        (3, True, (-4, 3)),
        (3, False, (0, 7)),
        (4, True, (-8, 7)),
        (4, False, (0, 15)),
    ],
)
def test_code_ranges(bits: int, signed: bool, wanted: tuple[int, int]) -> None:
    assert code_range(bits, signed) == wanted


@pytest.mark.parametrize("bits", [0, 1, 5, 8])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"got {bits} bits, wanted one of"):
        RLQ(bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shift", [None, SHIFT], ids=["plain", "shifted"])
@SIGNS
def test_fake_quant_is_codes_times_scale_exactly(bits: int, signed: bool, shift: list[float] | None) -> None:
    quantizer = ready(bits, signed=signed, shift=shift)
    x = samples(quantizer).float()
    codes, params = quantizer.codes(x)
    assert params.scale.dtype == torch.float64
    assert torch.equal(quantizer(x).double(), (codes * params.scale).float().double())
    assert torch.equal(quantizer(x), codes * quantizer.scale)


@SIGNS
def test_codes_follow_the_definition(signed: bool) -> None:
    quantizer = ready(3, signed=signed, shift=SHIFT)
    x = samples(quantizer)
    u = (x + torch.tensor(SHIFT).double().view(1, 3, 1, 1).float().double()) / quantizer.scale.double()
    wanted = u.round().clamp(*code_range(3, signed))
    assert torch.equal(quantizer.codes(x)[0].double(), wanted)


@torch.no_grad()
@SIGNS
def test_the_error_is_at_most_half_a_step_inside(signed: bool) -> None:
    quantizer = ready(4, signed=signed)
    qmin, qmax = code_range(4, signed)
    x = torch.linspace(qmin, qmax, 1001).view(1, 1, 7, 143) * quantizer.scale.item()
    assert float((quantizer(x) - x).abs().max()) <= quantizer.scale.item() / 2 * (1 + 1e-5)


def test_exact_halves_round_to_even() -> None:
    quantizer = ready(4, scale=0.25)
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 3.5, -7.5, 6.5, 7.5, -8.5]).view(1, 1, 1, -1) * 0.25
    assert quantizer.codes(x)[0].flatten().tolist() == [-2, 0, 0, 2, 2, 4, -8, 6, 7, -8]


def test_the_shift_moves_a_channel_and_is_not_taken_back() -> None:
    quantizer = ready(4, scale=1.0, shift=[2.0, 0.0])
    x = torch.ones(1, 2, 1, 1)
    assert quantizer(x).flatten().tolist() == [3, 1]


@pytest.mark.parametrize("bits", BITS)
def test_a_mid_rise_grid_has_pairs_of_levels_and_no_zero(bits: int) -> None:
    quantizer = mid_rise(bits)
    w = samples(quantizer, (4, 3, 40, 40)).float()
    codes, params = quantizer.codes(w)
    assert codes.unique().tolist() == list(range(1 - 2**bits, 2**bits, 2))
    assert (params.qmin, params.qmax, params.step) == (1 - 2**bits, 2**bits - 1, 2)
    assert torch.equal(quantizer(w), (codes * params.scale).float())
    inside = w.abs() <= 2 ** (bits - 1) * 0.37
    assert float((quantizer(w) - w).detach().abs()[inside].max()) <= 0.37 / 2 * (1 + 1e-5)
    again = mid_rise(bits, scale=1.0)
    again.restore(params)
    assert torch.equal(again(quantizer(w)), quantizer(w))


@pytest.mark.parametrize("bits", BITS)
def test_a_mid_rise_grid_starts_near_the_least_squared_error(bits: int) -> None:
    w = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer = mid_rise(bits)
    quantizer.init_from(w)

    def error(scale: float) -> float:
        quantizer.scale.data.fill_(scale)
        return float((quantizer(w) - w).square().mean())

    start = float(quantizer.scale)
    assert error(start) < min(error(start * factor) for factor in (0.8, 0.9, 0.97, 1.03, 1.1, 1.2))


# ---- backward


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shift", [None, SHIFT], ids=["plain", "shifted"])
@SIGNS
def test_gradients_equal_the_closed_form(
    bits: int, signed: bool, shift: list[float] | None, temperature: float
) -> None:
    quantizer = ready(bits, signed=signed, shift=shift, temperature=temperature).double()
    qmin, qmax = code_range(bits, signed)
    x = samples(quantizer).requires_grad_()
    incoming = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer(x).backward(incoming)

    tau = torch.zeros(3, dtype=torch.float64) if quantizer.shift is None else quantizer.shift.detach()
    u = (x.detach() + tau.view(1, 3, 1, 1)) / quantizer.scale.detach()
    inside, slope = (u >= qmin) & (u <= qmax), _slope(u, temperature)
    assert 0.1 < float(inside.double().mean()) < 0.9
    to_x = incoming * torch.where(inside, slope, 0.0)
    per_step = torch.where(inside, u.round() - slope * u, u.clamp(qmin, qmax))
    to_scale = (incoming * per_step).sum() / math.sqrt(x.numel() * qmax)

    torch.testing.assert_close(x.grad, to_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(quantizer.scale.grad, to_scale, rtol=1e-12, atol=1e-12)
    if quantizer.shift is not None:
        torch.testing.assert_close(quantizer.shift.grad, to_x.sum(dim=(0, 2, 3)), rtol=1e-12, atol=1e-12)


def _slope(v: Tensor, temperature: float) -> Tensor:
    """phi' written in another way: T / (2 tanh(T/2) cosh^2)."""
    if temperature == 0:
        return torch.ones_like(v)
    return temperature / (2 * math.tanh(temperature / 2) * torch.cosh(temperature * (v - v.floor() - 0.5)) ** 2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("bits", BITS)
def test_gradients_of_a_mid_rise_grid_equal_the_closed_form(bits: int, temperature: float) -> None:
    quantizer = mid_rise(bits, temperature=temperature).double()
    qmin, qmax = code_range(bits, True)
    w = samples(quantizer).requires_grad_()
    incoming = torch.randn(w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer(w).backward(incoming)
    u = w.detach() / quantizer.scale.detach()
    v = u - 0.5
    inside, slope = (v >= qmin) & (v <= qmax), _slope(v, temperature)
    per_step = torch.where(inside, v.round() + 0.5 - slope * u, v.clamp(qmin, qmax) + 0.5)
    torch.testing.assert_close(w.grad, incoming * torch.where(inside, slope, 0.0), rtol=1e-12, atol=1e-12)
    wanted = (incoming * per_step).sum() / math.sqrt(w.numel() * qmax)
    torch.testing.assert_close(quantizer.scale.grad, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES[1:])
@SIGNS
def test_gradients_equal_differences_of_the_smooth_staircase(signed: bool, temperature: float) -> None:
    quantizer = ready(2, signed=signed, shift=SHIFT, temperature=temperature).double()
    qmin, qmax = code_range(2, signed)
    x = samples(quantizer).requires_grad_()
    scale, tau = quantizer.scale.detach(), quantizer.shift.detach().view(1, 3, 1, 1)
    quantizer(x).sum().backward()

    def smooth(x: Tensor, scale: Tensor) -> Tensor:
        v = ((x + tau) / scale).clamp(qmin, qmax)
        wave = torch.tanh(temperature * (v - v.floor() - 0.5))
        return scale * (v.floor() + 0.5 + wave / (2 * math.tanh(temperature / 2)))

    def slope(function: Callable[[float], Tensor], step: float = 1e-6) -> Tensor:
        return (function(step) - function(-step)) / (2 * step)

    point = x.detach()
    torch.testing.assert_close(x.grad, slope(lambda e: smooth(point + e, scale)), rtol=1e-6, atol=1e-6)
    # The step's gradient has round(v) where the smooth staircase has its own value.
    v = ((point + tau) / scale).clamp(qmin, qmax)
    rounding = (v.round() - smooth(point, scale) / scale).sum()
    g = 1 / math.sqrt(x.numel() * qmax)
    wanted = g * (slope(lambda e: smooth(point, scale + e)).sum() + rounding)
    torch.testing.assert_close(quantizer.scale.grad, wanted, rtol=1e-6, atol=1e-6)


def test_the_ends_of_the_range_count_as_inside() -> None:
    quantizer = ready(2, scale=0.5, temperature=0.0)
    x = torch.tensor([-1.0, 0.5, -1.01, 0.51]).view(1, 1, 1, 4).requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad.flatten().tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("bits", BITS)
def test_without_shift_and_temperature_it_is_lsq(bits: int) -> None:
    quantizer = ready(bits, temperature=0.0, shift=[0.0, 0.0, 0.0]).double()
    x = samples(quantizer).requires_grad_()
    quantizer(x).square().sum().backward()

    lsq_x, lsq_scale = x.detach().clone().requires_grad_(), quantizer.scale.detach().clone().requires_grad_()
    qmin, qmax = code_range(bits, True)
    g = 1 / math.sqrt(x.numel() * qmax)
    step = (lsq_scale - lsq_scale * g).detach() + lsq_scale * g
    v = (lsq_x / step).clamp(qmin, qmax)
    lsq = ((v.round() - v).detach() + v) * step
    lsq.square().sum().backward()
    torch.testing.assert_close(quantizer(x), lsq)
    torch.testing.assert_close(x.grad, lsq_x.grad)
    torch.testing.assert_close(quantizer.scale.grad, lsq_scale.grad)


def test_the_gradient_scale_counts_the_batch() -> None:
    grads = []
    for batch in (1, 4):
        quantizer = ready(4)
        x = torch.full((batch, 3, 5, 5), 100.0)
        quantizer(x).sum().backward()
        grads.append(quantizer.scale.grad.item())
    assert grads[1] / grads[0] == pytest.approx(2)  # four times the sum, half the factor


# ---- precision


def test_autocast_does_not_change_codes() -> None:
    quantizer = ready(4, shift=SHIFT)
    x = samples(quantizer).float()
    wanted, _ = quantizer.codes(x)
    with torch.autocast("cpu", torch.bfloat16):
        codes, _ = quantizer.codes(x)
        faked = quantizer(x)
    assert torch.equal(codes, wanted)
    assert faked.dtype == torch.float32 and torch.equal(faked, quantizer(x))


@pytest.mark.parametrize("shift", [None, SHIFT], ids=["plain", "shifted"])
def test_bfloat16_input_is_quantized_in_float32(shift: list[float] | None) -> None:
    quantizer = ready(4, scale=0.011, shift=shift)
    x = samples(quantizer).bfloat16().requires_grad_()
    faked = quantizer(x)
    assert faked.dtype == torch.float32 and torch.equal(faked, quantizer(x.float()))
    faked.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and bool(torch.isfinite(x.grad).all())


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_compiled_equals_eager(temperature: float) -> None:
    torch.compiler.reset()
    quantizer = ready(4, shift=SHIFT, temperature=temperature)
    x = samples(quantizer).float().requires_grad_()
    eager = quantizer(x)
    eager.square().sum().backward()
    wanted = [x.grad, quantizer.scale.grad, quantizer.shift.grad]
    x.grad = quantizer.scale.grad = quantizer.shift.grad = None
    compiled = torch.compile(quantizer)(x)
    compiled.square().sum().backward()
    assert torch.equal(compiled, eager)
    torch.testing.assert_close([x.grad, quantizer.scale.grad, quantizer.shift.grad], wanted)


# ---- calibration and state


@pytest.mark.parametrize("call", [RLQ.forward, RLQ.codes], ids=["forward", "codes"])
def test_use_before_calibration_is_an_error(call: Callable[[RLQ, Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match=r"got an uncalibrated quantizer: run calibrate\(\) or load a checkpoint"):
        call(RLQ(4, shift_channels=3), torch.zeros(1, 3, 4, 4))


def test_calibration_without_data_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="calibration saw no batch"):
        RLQ(4, shift_channels=3).finish_calibration()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_negative_in_any_batch_makes_it_signed(bits: int, position: int) -> None:
    batches = [torch.rand(2, 3, 4, 4) for _ in range(3)]
    batches[position][1, 2, 3, 3] = -1e-3
    quantizer = _calibrated(bits, batches)
    assert quantizer.signed
    mean = float(torch.stack(batches).abs().mean())
    assert quantizer.scale.item() == pytest.approx(2 * mean / math.sqrt(2 ** (bits - 1) - 1), rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_without_negatives_it_is_unsigned(bits: int) -> None:
    batches = [torch.rand(2, 3, 4, 4) - 1e-6, torch.rand(1, 3, 8, 9)]  # rounding noise below zero does not count
    batches[0][0, 0, 0, 0] = -1e-6
    quantizer = _calibrated(bits, batches)
    assert not quantizer.signed
    mean = float(torch.cat([batch.flatten() for batch in batches]).abs().mean())  # larger batches weigh more
    assert quantizer.scale.item() == pytest.approx(2 * mean / math.sqrt(2**bits - 1), rel=1e-6)


def test_signedness_is_decided_after_the_shift() -> None:
    quantizer = RLQ(4, shift_channels=3)
    quantizer.shift.data.fill_(0.5)
    quantizer.observe(torch.full((1, 3, 2, 2), -0.4))
    quantizer.finish_calibration()
    assert not quantizer.signed


def _calibrated(bits: int, batches: list[Tensor]) -> RLQ:
    quantizer = RLQ(bits, shift_channels=3)
    for batch in batches:
        quantizer.observe(batch)
    quantizer.finish_calibration()
    return quantizer


@pytest.mark.parametrize("bits", BITS)
def test_a_weights_first_step(bits: int) -> None:
    weight = torch.randn(8, 4, 3, 3)
    quantizer = RLQ(bits)
    quantizer.init_from(weight)
    assert quantizer.signed and quantizer.calibrated and quantizer.shift is None
    assert quantizer.scale.item() == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(2 ** (bits - 1) - 1))


def test_a_dead_layer_gets_a_usable_step() -> None:
    quantizer = _calibrated(4, [torch.zeros(1, 3, 4, 4)])
    assert quantizer.scale.item() > 0
    assert torch.equal(quantizer(torch.zeros(1, 3, 4, 4)), torch.zeros(1, 3, 4, 4))


@SIGNS
def test_flags_travel_in_the_state(signed: bool) -> None:
    source, target = ready(4, signed=signed, shift=SHIFT), RLQ(4, shift_channels=3)
    target.load_state_dict(source.state_dict())
    assert (target.calibrated, target.signed) == (True, signed)
    x = samples(source).float()
    assert torch.equal(target(x), source(x))


def test_the_state_is_tensors_only() -> None:
    state = nn.ModuleDict({"q": ready(4, shift=SHIFT)}).state_dict()
    assert sorted(state) == ["q._extra_state", "q.scale", "q.shift"]
    assert all(isinstance(value, Tensor) for value in state.values())


# ---- options


def network_part(act_channels: int = 3, **settings: object) -> tuple[RLQ, RLQ]:
    """Quantizers of a weight of 4 output channels and of an input, as a configuration makes them."""
    config = QuantConfig(3, 3, **settings)  # type: ignore[arg-type]
    return rlq.weight(config, 4), rlq.act(config, act_channels)


@pytest.mark.parametrize("granularity,shape", [("per_channel", (3,)), ("per_tensor", (1,)), ("none", None)])
def test_the_shift_of_an_input_has_a_granularity(granularity: str, shape: tuple[int, ...] | None) -> None:
    _, quantizer = network_part(act_shift=granularity)
    assert (None if quantizer.shift is None else tuple(quantizer.shift.shape)) == shape
    quantizer.restore(QParams(3, -4, 3, torch.tensor(0.3)))
    x = samples(quantizer, (2, 3, 4, 4)).float()
    if quantizer.shift is None:
        assert torch.equal(quantizer(x), ready(3, scale=0.3)(x))
        return
    quantizer.shift.data.fill_(0.2)
    assert torch.equal(quantizer(x), ready(3, scale=0.3, shift=[0.2] * 3)(x))
    quantizer(x).sum().backward()
    assert quantizer.shift.grad.shape == shape and quantizer.codes(x)[1].shift.shape == shape


def test_a_weight_may_have_a_shift() -> None:
    quantizer, _ = network_part(weight_shift=True)
    weight = torch.randn(4, 2, 3, 3, requires_grad=True)
    quantizer.init_from(weight)
    quantizer.shift.data.fill_(0.4)
    scale = quantizer.scale.detach()
    codes, _ = quantizer.codes(weight)
    assert torch.equal(codes.float(), ((weight + 0.4) / scale).round().clamp(-4, 3))
    assert torch.equal(quantizer(weight), codes * scale)
    quantizer(weight).sum().backward()
    assert quantizer.shift.grad.item() == pytest.approx(weight.grad.sum().item(), rel=1e-5)


def test_a_step_per_channel_is_a_quantizer_per_channel() -> None:
    together, _ = network_part(weight_granularity="per_channel")
    weight = (torch.randn(4, 2, 3, 3) * torch.tensor([0.1, 1, 2, 5]).view(4, 1, 1, 1)).requires_grad_()
    together.init_from(weight)
    together(weight).square().sum().backward()
    codes, params = together.codes(weight)
    assert params.scale.shape == (4,)
    for channel in range(4):
        alone, row = RLQ(3), weight.detach()[channel : channel + 1].clone().requires_grad_()
        alone.init_from(row)
        alone(row).square().sum().backward()
        torch.testing.assert_close(together.scale[channel], alone.scale)
        torch.testing.assert_close(together.scale.grad[channel], alone.scale.grad)
        torch.testing.assert_close(weight.grad[channel], row.grad[0])
        assert torch.equal(codes[channel], alone.codes(row)[0][0])


def test_first_steps_from_a_percentile() -> None:
    per_tensor, act = network_part(range_init="percentile")
    per_channel, _ = network_part(range_init="percentile", weight_granularity="per_channel")
    weight = torch.randn(4, 100, 3, 3) * torch.tensor([0.1, 1, 2, 5]).view(4, 1, 1, 1)
    per_tensor.init_from(weight)
    per_channel.init_from(weight)
    assert per_tensor.scale.item() == pytest.approx(torch.quantile(weight.abs(), 0.99).item() / 3)
    torch.testing.assert_close(per_channel.scale, torch.quantile(weight.abs().flatten(1), 0.99, dim=1) / 3)
    batches = [torch.rand(2, 3, 8, 8), 2 * torch.rand(2, 3, 8, 8)]
    for batch in batches:
        act.observe(batch)
    act.finish_calibration()
    wanted = torch.quantile(torch.cat([batch.flatten() for batch in batches]), 0.99).item() / 7
    assert not act.signed and act.scale.item() == pytest.approx(wanted)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # as of a GPU, tensors of meta meet none of another device
def test_first_steps_are_fitted_where_the_network_is(device: str) -> None:
    quantizer, seen = RLQ(4, range_init="least_error").to(device), Observed()
    seen.add(torch.randn(2, 3, 8, 8))  # samples stay on the CPU
    quantizer.set_range(seen)
    assert quantizer.means is not None and {mean.device.type for mean in quantizer.means} == {device}


def test_percentiles_of_many_batches() -> None:
    observed = Observed()
    observed._samples = [torch.linspace(0, 1, 2**24 + 3)[None]]  # more than torch.quantile takes
    assert observed.percentile(25) == pytest.approx(0.25, abs=1e-6)


def test_large_batches_are_sampled_for_percentiles() -> None:
    x, observed = torch.randn(4, 8, 128, 128), Observed()
    state = torch.get_rng_state()
    observed.add(x)
    observed.add(x)
    assert observed.percentile(99) == pytest.approx(float(x.flatten().kthvalue(int(0.99 * x.numel())).values), rel=0.03)
    assert observed.percentile(99, magnitude=True) > observed.percentile(99)
    again = Observed()
    again.add(x)
    again.add(x)
    assert again.percentile(1) == observed.percentile(1)
    assert torch.equal(torch.get_rng_state(), state)
