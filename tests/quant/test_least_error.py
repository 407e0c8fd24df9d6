import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantsr.models.blocks import Product
from quantsr.quant import QuantConfig, calibrate, without_shifts
from quantsr.quant.config import MIN_SCALE, code_range
from quantsr.quant.convert import QUANTIZERS
from quantsr.quant.layers import QuantLinear, QuantProduct, response
from quantsr.quant.least_error import fit_step_and_shifts, fit_steps

GAUSSIAN_STEPS = {2: 0.996, 3: 0.586, 4: 0.335}  # of 2^bits levels around the mean (J. Max, IRE Trans. IT, 1960)
LEAST_ERROR = QuantConfig(2, 2, range_init="least_error")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def error(rows: Tensor, step: Tensor | float, shift: Tensor, bits: int, signed: bool) -> float:
    codes = ((rows + shift[:, None]) / step).round().clamp(*code_range(bits, signed))
    return float((step * codes - shift[:, None] - rows).square().mean())


@pytest.mark.parametrize("bits", GAUSSIAN_STEPS)
def test_shifted_levels_lie_around_the_mean_of_a_normal_distribution(bits: int) -> None:
    means = torch.tensor([-3.0, 0.0, 0.5])
    step, shifts = fit_step_and_shifts(torch.randn(3, 40_000) + means[:, None], *code_range(bits, True))
    assert float(step) == pytest.approx(GAUSSIAN_STEPS[bits], rel=0.03)
    middles = -step / 2 - shifts  # of the levels: half a step below code 0
    torch.testing.assert_close(middles, means, atol=0.05, rtol=0)


@pytest.mark.parametrize("bits", GAUSSIAN_STEPS)
def test_a_mid_rise_grid_has_the_known_steps(bits: int) -> None:
    spreads = torch.tensor([0.1, 1.0, 7.0])
    steps = fit_steps(torch.randn(3, 40_000) * spreads[:, None], *code_range(bits, True), 0.5)
    torch.testing.assert_close(steps / spreads, torch.full((3,), GAUSSIAN_STEPS[bits]), rtol=0.05, atol=0)


DISTRIBUTIONS = {
    "normal": (torch.randn, True),
    "gelu": (lambda *shape: functional.gelu(torch.randn(*shape)), True),
    "relu": (lambda *shape: torch.randn(*shape).relu(), False),
    "laplace": (lambda *shape: torch.distributions.Laplace(0.0, 1.0).sample(shape), True),
}


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_other_step_and_shift_is_much_better(name: str, bits: int) -> None:
    draw, signed = DISTRIBUTIONS[name]
    rows = draw(1, 4000)
    found = error(rows, *fit_step_and_shifts(rows, *code_range(bits, signed)), bits, signed)
    width = float(rows.max() - rows.min()) / (2**bits - 1)
    steps, places = torch.linspace(0.1, 1, 30) * width, torch.linspace(-1, 1, 60) * 2**bits
    least = min(error(rows, float(step), place * step.expand(1), bits, signed) for step in steps for place in places)
    assert found < 1.05 * least


@pytest.mark.parametrize("signed", [False, True])
def test_without_shift_no_other_step_is_much_better(signed: bool) -> None:
    rows = torch.randn(1, 4000) if signed else torch.randn(1, 4000).relu()
    found = error(rows, fit_steps(rows, *code_range(2, signed)), torch.zeros(1), 2, signed)
    assert found < 1.02 * min(error(rows, step, torch.zeros(1), 2, signed) for step in torch.linspace(0.2, 3, 200))


def test_values_on_a_grid_are_met() -> None:
    rows = 0.25 * torch.randint(0, 4, (2, 500)) + torch.tensor([[1.0], [-2.0]])
    step, shifts = fit_step_and_shifts(rows, -2, 1)
    assert error(rows, step, shifts, 2, True) < 1e-10


@pytest.mark.parametrize("rows", [torch.zeros(2, 10), torch.ones(2, 10), torch.ones(2, 1)])
def test_values_without_spread_give_a_usable_step(rows: Tensor) -> None:
    step, shifts = fit_step_and_shifts(rows, -2, 1)
    assert step >= MIN_SCALE and shifts.isfinite().all()
    assert (fit_steps(rows, -2, 1) >= MIN_SCALE).all()


@pytest.mark.parametrize("quantizer", ["rlq", "lsq"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_a_weight_starts_at_the_least_error(quantizer: str, granularity: str) -> None:
    config = QuantConfig(3, 3, quantizer=quantizer, weight_granularity=granularity, range_init="least_error")
    weight = torch.randn(6, 40, 3, 3) * torch.tensor([0.1, 1, 2, 3, 4, 5]).view(6, 1, 1, 1)
    part = QUANTIZERS[quantizer].weight(config, 6)
    part.init_from(weight)
    start, before = part.scale.detach().clone(), (part(weight) - weight).square().sum().item()
    for factor in (0.8, 0.9, 1.1, 1.25):
        part.scale.data.copy_(start * factor)
        assert (part(weight) - weight).square().sum().item() > before


@pytest.mark.parametrize("act_shift", ["per_channel", "per_tensor"])
def test_a_layer_gives_on_average_what_it_gave_in_float(act_shift: str) -> None:
    config = QuantConfig(4, 2, range_init="least_error", act_shift=act_shift)
    linear = torch.nn.Linear(8, 5)
    layer = QuantLinear.swap(torch.nn.Linear(8, 5), config, QUANTIZERS["rlq"])
    linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    offsets = torch.linspace(2, 4, 8) if act_shift == "per_channel" else torch.tensor(3.0)
    batches = [torch.randn(2, 50, 8) + offsets for _ in range(4)]
    with torch.no_grad():
        calibrate(layer, batches)
        assert layer.act_quantizer.shift.abs().min() > 1
        x = torch.cat(batches)
        wanted, got = linear(x), layer(x)
        assert (got - wanted).mean((0, 1)).abs().max() < 0.1
        assert (got - wanted).square().mean() < 0.2 * wanted.var((0, 1)).mean()


def test_a_layer_that_reads_a_shifted_input_can_take_it_back() -> None:
    weight, offset, x = torch.randn(3, 4, 3, 3), torch.randn(4), torch.randn(2, 4, 6, 6)
    shifted = functional.conv2d(x + offset.view(1, 4, 1, 1), weight)
    torch.testing.assert_close(
        functional.conv2d(x, weight), shifted - response(weight, offset).view(1, 3, 1, 1), atol=1e-4, rtol=1e-4
    )
    same = response(weight[..., 0, 0], offset[:1])
    torch.testing.assert_close(same, functional.linear(offset[:1].expand(4), weight[..., 0, 0]))


def test_shifts_leave_a_checkpoint_of_half_precision_without_its_rounding() -> None:
    state = {
        "a.weight": torch.full((1, 64), 0.1).half(),
        "a.bias": torch.full((1,), 1000.0).half(),
        "a.act_quantizer.shift": torch.full((64,), 3.03).half(),
    }
    moved = without_shifts(state)
    wanted = 1000 + 64 * state["a.weight"][0, 0].double() * state["a.act_quantizer.shift"][0].double()
    assert float(moved.pop("a.bias")) == pytest.approx(float(wanted), abs=1e-3)
    assert all(moved[name] is state[name] for name in moved)


def test_what_a_shift_of_weights_adds_stays_in_them() -> None:
    weight, bias, shift, offset = torch.randn(3, 4, 3, 3), torch.randn(3), torch.tensor([0.3]), torch.randn(4)
    state = {"a.weight": weight, "a.bias": bias, "a.act_quantizer.shift": offset, "a.weight_quantizer.shift": shift}
    moved, x = without_shifts(state), torch.randn(2, 4, 6, 6)
    wanted = functional.conv2d(x + offset.view(1, 4, 1, 1), weight + shift, bias)
    torch.testing.assert_close(functional.conv2d(x, moved["a.weight"], moved["a.bias"]), wanted, atol=1e-4, rtol=1e-4)


def test_what_no_bias_follows_gets_no_shift() -> None:
    product = QuantProduct(Product(2), LEAST_ERROR, QUANTIZERS["rlq"])
    for part in (product.left_quantizer, product.right_quantizer):
        part.observe(torch.randn(3, 2, 5, 5) + 4)
        part.finish_calibration()
        assert torch.equal(part.shift, torch.zeros(2)) and part.scale > 0.1
