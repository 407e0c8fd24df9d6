"""Forward and gradient of each rival against its formulas, written out by hand, in float64."""

import math

import pytest
import torch
from torch import Tensor

from quantsr.quant import QuantConfig, Quantizer, lsq
from quantsr.quant.daq import DAQInput, DAQWeight
from quantsr.quant.ddtb import DDTBInput, DDTBWeight
from quantsr.quant.dorefa import DoReFaInput, DoReFaWeight
from quantsr.quant.odm import MISMATCH, ODMInput, ODMWeight
from quantsr.quant.pact import DECAY, PACTInput
from quantsr.quant.pams import PAMSInput, PAMSWeight
from quantsr.quant.rlq import RLQ

BITS = pytest.mark.parametrize("bits", [2, 3, 4])
SIGNS = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def inputs(signed: bool = True) -> Tensor:
    """float64 (2, 3, 7, 9), a quarter of it outside of -1 .. 1."""
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (x if signed else x.abs()).requires_grad_()


def weights() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.2 * torch.randn(6, 4, 3, 3, dtype=torch.float64, generator=generator)).requires_grad_()


def ready(quantizer: Quantizer, *, signed: bool = True, **state: float) -> Quantizer:
    quantizer.calibrated, quantizer.signed = True, signed
    for name, value in state.items():
        getattr(quantizer, name).data.fill_(value)
    return quantizer.double()


def run(quantizer: Quantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the random gradient that came back through it."""
    output = quantizer(x)
    incoming = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    output.backward(incoming)
    return output.detach(), incoming


def check(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, **EXACT)


# ---- LSQ


@BITS
@SIGNS
def test_lsq_is_rlq_at_temperature_zero_with_the_shift_fixed_at_zero(bits: int, signed: bool) -> None:
    rlq = ready(RLQ(bits, temperature=0.0, shift_channels=3), signed=signed, scale=0.3)
    one = ready(lsq.act(QuantConfig(act_bits=bits, quantizer="lsq"), 3), signed=signed, scale=0.3)
    x, again = inputs(signed), inputs(signed)
    output, _ = run(one, x)
    wanted, _ = run(rlq, again)
    assert torch.equal(output, wanted) and torch.equal(x.grad, again.grad)
    assert torch.equal(one.scale.grad, rlq.scale.grad)
    assert dict(one.named_parameters()).keys() == {"scale"}


@BITS
@SIGNS
def test_lsq(bits: int, signed: bool) -> None:
    quantizer = ready(lsq.act(QuantConfig(act_bits=bits, quantizer="lsq"), 3), signed=signed, scale=0.3)
    x = inputs(signed)
    output, incoming = run(quantizer, x)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    u, s = x.detach() / quantizer.scale.detach(), quantizer.scale.detach()
    inside = (u >= low) & (u <= high)
    check(output, s * u.round().clamp(low, high))
    check(x.grad, incoming * inside)
    to_step = torch.where(inside, u.round() - u, u.clamp(low, high))
    check(quantizer.scale.grad, (incoming * to_step).sum() / math.sqrt(x.numel() * high))


# ---- DoReFa


@BITS
def test_dorefa_weights(bits: int) -> None:
    w = weights()
    output, incoming = run(ready(DoReFaWeight(QuantConfig(weight_bits=bits), 6)), w)
    n, t, size = 2**bits - 1, torch.tanh(w.detach()), w.detach().abs().max()
    unit = t / (2 * t.abs().max()) + 0.5
    check(output, size * (2 * torch.round(n * unit) / n - 1))
    check(w.grad, incoming * size * (1 - t**2) / t.abs().max())


@BITS
@SIGNS
def test_dorefa_inputs(bits: int, signed: bool) -> None:
    x, bound, n = inputs(signed), 0.9, 2**bits - 1
    quantizer = ready(DoReFaInput(QuantConfig(act_bits=bits), 3), signed=signed, bound=bound)
    bound = quantizer.bound.item()
    output, incoming = run(quantizer, x)
    low = -bound if signed else 0.0
    y = x.detach().clamp(low, bound)
    check(output, low + (bound - low) * torch.round(n * (y - low) / (bound - low)) / n)
    check(x.grad, incoming * (y == x.detach()))


# ---- PACT


@BITS
@SIGNS
def test_pact(bits: int, signed: bool) -> None:
    x, n = inputs(signed), 2**bits - 1
    quantizer = ready(PACTInput(QuantConfig(act_bits=bits), 3), signed=signed, bound=0.9)
    a = quantizer.bound.item()
    output, incoming = run(quantizer, x)
    low, v = (-a if signed else 0.0), x.detach()
    folded = 0.5 * (v.abs() - (v - a).abs() + a)  # the paper's form of clip(x, 0, a)
    y = v.clamp(-a, a) if signed else folded
    check(output, low + (a - low) * torch.round(n * (y - low) / (a - low)) / n)
    check(x.grad, incoming * ((v > low) & (v < a)))
    check(quantizer.bound.grad, (incoming * ((v >= a).double() - (v <= -a).double() * signed)).sum())


def test_pact_decays_its_bound() -> None:
    quantizer = ready(PACTInput(QuantConfig(), 3), bound=3.0)
    penalty = quantizer.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(DECAY * 9) and quantizer.bound.grad.item() == pytest.approx(DECAY * 6)


# ---- PAMS


@BITS
@SIGNS
def test_pams_inputs(bits: int, signed: bool) -> None:
    x, n = inputs(signed), 2 ** (bits - 1) - 1
    quantizer = ready(PAMSInput(QuantConfig(act_bits=bits), 3), signed=signed, bound=0.9)
    a, v = quantizer.bound.item(), x.detach()
    output, incoming = run(quantizer, x)
    check(output, a / n * torch.round(v.clamp(-a, a) * n / a))
    check(x.grad, incoming * (v.abs() < a))
    check(quantizer.bound.grad, (incoming * torch.where(v.abs() < a, (output - v) / a, v.sign())).sum())


@BITS
def test_pams_weights(bits: int) -> None:
    w, n = weights(), 2 ** (bits - 1) - 1
    output, incoming = run(ready(PAMSWeight(QuantConfig(weight_bits=bits), 6)), w)
    m = w.detach().abs().max() + 1e-8
    check(output, m / n * torch.round(w.detach() * n / m))
    check(w.grad, incoming)


def test_pams_starts_at_the_mean_peak_of_the_images() -> None:
    quantizer = PAMSInput(QuantConfig(), 1)
    for peaks in ((1.0, -4.0), (2.0, 1.0)):
        batch = torch.zeros(2, 1, 3, 3)
        batch[:, 0, 1, 1] = torch.tensor(peaks)
        quantizer.observe(batch)
    quantizer.finish_calibration()
    assert quantizer.bound.item() == 2.0


# ---- DAQ

STEPS = {2: 1.596, 3: 0.996, 4: 0.586}


@BITS
def test_daq_signed_inputs(bits: int) -> None:
    x = inputs()
    output, incoming = run(ready(DAQInput(QuantConfig(act_bits=bits), 3)), x)
    most = 2 ** (bits - 1) - 0.5
    for image, planes in enumerate(x.detach()):
        for channel, plane in enumerate(planes):
            mean = plane.sum() / plane.numel()
            deviation = ((plane - mean).square().sum() / (plane.numel() - 1)).sqrt()
            step = STEPS[bits] * deviation
            levels = torch.clamp(torch.round((plane - mean) / step + 0.5) - 0.5, -most, most)
            check(output[image, channel], mean + step * levels)
    check(x.grad, incoming)


def test_daq_of_a_single_pixel_is_its_mean() -> None:
    x = torch.tensor([0.3, -0.2, 0.0]).view(1, 3, 1, 1)
    assert torch.equal(ready(DAQInput(QuantConfig(act_bits=2), 3))(x), x)


@BITS
def test_daq_unsigned_inputs(bits: int) -> None:
    x = inputs().detach().relu().requires_grad_()
    output, incoming = run(ready(DAQInput(QuantConfig(act_bits=bits), 3), signed=False), x)
    for image, planes in enumerate(x.detach()):
        for channel, plane in enumerate(planes):
            count = int((plane > 0).sum()) + 1
            mean = plane.sum() / count
            step = STEPS[bits] * (plane.square().sum() / count - mean**2).sqrt()
            check(output[image, channel], step * torch.round(plane / step).clamp(max=2**bits - 1))
    check(x.grad, incoming)


@BITS
def test_daq_weights(bits: int) -> None:
    w, most = weights(), 2 ** (bits - 1) - 0.5
    output, incoming = run(ready(DAQWeight(QuantConfig(weight_bits=bits), 6)), w)
    step = STEPS[bits] * w.detach().std()
    check(output, step * (torch.round(w.detach() / step + 0.5) - 0.5).clamp(-most, most))
    check(w.grad, incoming)


# ---- DDTB and ODM


def bounds_gradients(x: Tensor, y: Tensor, quantized: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """d x_hat / d low and d x_hat / d high of a uniform quantizer between two bounds."""
    scale = (quantized - y) / (high - low)
    return (x <= low).double() - scale, (x >= high).double() + scale


@BITS
@pytest.mark.parametrize("low", [-0.8, 0.0, 0.1])
def test_ddtb_inputs(bits: int, low: float) -> None:
    x, n = inputs(), 2**bits - 1
    quantizer = ready(DDTBInput(QuantConfig(act_bits=bits), 3), low=low, high=1.1)
    low, high, v = quantizer.low.item(), quantizer.high.item(), x.detach()
    output, incoming = run(quantizer, x)
    s, y = (high - low) / n, v.clamp(low, high)
    zero = round(low / s)
    check(output, s * ((torch.round(y / s) - zero).clamp(0, n) + zero))
    check(x.grad, incoming * ((v > low) & (v < high)))
    to_low, to_high = bounds_gradients(v, y, output, low, high)
    check(quantizer.low.grad, (incoming * to_low).sum())
    check(quantizer.high.grad, (incoming * to_high).sum())


@BITS
def test_ddtb_weights(bits: int) -> None:
    w, n = weights(), 2**bits - 1
    output, incoming = run(ready(DDTBWeight(QuantConfig(weight_bits=bits), 6)), w)
    v = w.detach()
    low, high = (float(torch.quantile(v, q)) for q in (0.01, 0.99))
    s, y = (high - low) / n, v.clamp(low, high)
    check(output, s * ((torch.round(y / s) - round(low / s)).clamp(0, n) + round(low / s)))
    check(w.grad, incoming * (v == y))


def test_halves_at_both_ends_do_not_add_a_level() -> None:
    quantizer = ready(DDTBInput(QuantConfig(act_bits=4), 1), low=-3.5, high=11.5)
    x = torch.linspace(-4, 12, 1001, dtype=torch.float64).view(1, 1, 1, -1)
    assert torch.round(torch.tensor([-3.5, 11.5])).diff() == 16
    assert len(quantizer(x).unique()) == 16
    codes, params = quantizer.codes(x)
    assert (params.qmin, params.qmax) == (int(codes.min()), int(codes.max())) == (-4, 11)


@BITS
def test_odm_inputs(bits: int) -> None:
    x, n = inputs(), 2**bits - 1
    quantizer = ready(ODMInput(QuantConfig(act_bits=bits), 3), low=-0.8, high=1.1)
    low, high, v = quantizer.low.item(), quantizer.high.item(), x.detach()
    output, incoming = run(quantizer, x)
    s, y = (high - low) / n, v.clamp(low, high)
    check(output, low + s * torch.round((y - low) / s))
    check(x.grad, incoming * ((v > low) & (v < high)))
    to_low, to_high = bounds_gradients(v, y, output, low, high)
    check(quantizer.low.grad, (incoming * to_low).sum())
    check(quantizer.high.grad, (incoming * to_high).sum())


def test_odm_draws_features_to_their_levels() -> None:
    x = inputs()
    quantizer = ready(ODMInput(QuantConfig(act_bits=3), 3), low=-0.8, high=1.1)
    output = quantizer(x).detach()
    mismatch = quantizer.mismatch()
    mismatch.backward()
    distance = (x.detach() - output).square().sum().sqrt()
    check(mismatch.detach(), MISMATCH * distance)
    check(x.grad, MISMATCH * (x.detach() - output) / distance)
    assert quantizer.mismatch() == 0.0  # counted once
    quantizer.eval()(x)
    assert quantizer.mismatch() == 0.0


@BITS
def test_odm_weights(bits: int) -> None:
    w, n = weights(), 2**bits - 1
    quantizer = ready(ODMWeight(QuantConfig(weight_bits=bits), 6), gamma=0.9)
    output, incoming = run(quantizer, w)
    v, gamma = w.detach(), quantizer.gamma.item()
    percentile = float(torch.quantile(v.abs(), 0.99))
    u = gamma * percentile
    s, y = 2 * u / n, v.clamp(-u, u)
    check(output, -u + s * torch.round((y + u) / s))
    check(w.grad, incoming * (v.abs() < u))
    per_bound = torch.where(v.abs() < u, (output - v) / u, v.sign())
    check(quantizer.gamma.grad, percentile * (incoming * per_bound).sum())


@pytest.mark.parametrize("kind", [DDTBInput, ODMInput])
def test_bounds_start_at_percentiles_of_all_batches(kind: type[Quantizer]) -> None:
    quantizer = kind(QuantConfig(), 1)
    values = torch.arange(-100, 901, dtype=torch.float32)[torch.randperm(1001)]
    quantizer.observe(values[:500].view(1, 1, 20, 25))
    quantizer.observe(values[500:1000].view(1, 1, 20, 25))
    quantizer.observe(values[1000:].view(1, 1, 1, 1))
    quantizer.finish_calibration()
    assert (quantizer.low.item(), quantizer.high.item()) == (-90, 890)
