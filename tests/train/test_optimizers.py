import copy

import pytest
import torch
from torch import Tensor, nn

from quantsr.config import OptimConfig
from quantsr.models import EDSR, SwinIR
from quantsr.quant import QuantConfig, calibrate, quantize, quantized_layers
from quantsr.train.optimizers import Optimizer

METHODS = pytest.mark.parametrize("method", ["adam", "muon"])


def small(backbone: str = "edsr") -> nn.Module:
    """A calibrated network of 2 blocks at 4 bits, channels last in memory."""
    torch.manual_seed(0)
    edsr = backbone == "edsr"
    network = EDSR(channels=8, blocks=2) if edsr else SwinIR(channels=8, blocks=2, layers=2, heads=2, window=4)
    quantize(network, QuantConfig(placement="body" if edsr else "linears"))
    calibrate(network, [torch.rand(2, 3, 8, 8)])
    return network.to(memory_format=torch.channels_last)


def optimizer(network: nn.Module, **settings: object) -> Optimizer:
    return Optimizer(network, OptimConfig(**settings))  # type: ignore[arg-type]


def step(network: nn.Module, steps: Optimizer, seed: int = 0, rate: float = 1e-3) -> None:
    generator = torch.Generator().manual_seed(seed)
    lr, hr = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)
    steps.zero_grad()
    (network(lr) - hr).abs().mean().backward()
    steps.set_rate(rate)
    steps.step()


def test_steps_and_shifts_learn_at_their_own_rate() -> None:
    network = small()
    steps = optimizer(network, quantizer_rate=0.25, shift_rate=0.5)
    steps.set_rate(2e-3)
    groups = {group["relative_rate"]: group for group in steps.param_groups}
    assert {relative: group["lr"] for relative, group in groups.items()} == {r: r * 2e-3 for r in (1.0, 0.25, 0.5)}
    layers = quantized_layers(network).values()
    shifts = {id(layer.act_quantizer.shift) for layer in layers}
    scales = {id(quantizer.scale) for layer in layers for quantizer in (layer.act_quantizer, layer.weight_quantizer)}
    assert {id(p) for p in groups[0.25]["params"]} == scales and len(scales) == 8
    assert {id(p) for p in groups[0.5]["params"]} == shifts and len(shifts) == 4
    assert len(groups[1.0]["params"]) + 12 == len(list(network.parameters()))


@pytest.mark.parametrize("backbone", ["edsr", "swinir"])
def test_muon_steps_the_weights_of_the_trunk_and_adam_the_rest(backbone: str) -> None:
    network = small(backbone)
    steps = optimizer(network, method="muon")
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    trunk = {f"{name}.weight" for name in layers if name.startswith(("body", "after_body"))}
    assert set(steps.matrices) == trunk and len(trunk) in (5, 19)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    step(network, steps)
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert trunk | {"head.weight", "upsampler.0.weight"} <= moved
    fields = {name.split(".", 1)[0] for name, _ in steps.tensors()}
    assert fields == {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}


def test_a_step_of_muon_is_orthogonal_and_against_the_gradient() -> None:
    network = small()
    weight = network.body[0].conv1.weight
    before = weight.detach().clone()
    steps = optimizer(network, method="muon")
    step(network, steps, rate=1e-2)
    moved, gradient = (t.permute(0, 2, 3, 1).flatten(1).double() for t in (weight.detach() - before, weight.grad))
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    along = -(u.T @ moved @ v.T) / (1e-2 * 0.2 * 72**0.5)  # in the singular directions of the gradient
    off = along - torch.diag(along.diagonal())
    assert 0.6 < float(along.diagonal().min()) and float(along.diagonal().max()) < 1.3
    assert float(off.abs().max()) < 0.1  # bfloat16


@METHODS
@pytest.mark.parametrize("backbone", ["edsr", "swinir"])
def test_the_state_travels(method: str, backbone: str) -> None:
    network = small(backbone)
    steps = optimizer(network, method=method)
    for seed in range(3):
        step(network, steps, seed)
    other = copy.deepcopy(network)
    restored = optimizer(other, method=method)
    state: dict[str, Tensor] = {name: t.clone() for name, t in steps.tensors()}
    restored.restore(state)
    for a, b in ((network, steps), (other, restored)):
        step(a, b, seed=3)
    for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
