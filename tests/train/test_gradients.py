"""What a step follows: the loss, and a mismatch as far as it agrees."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from quantsr.quant import QuantConfig, odm
from quantsr.train import Trainer
from quantsr.train.distributed import Workers
from quantsr.train.gradients import agreement, backward
from train.runs import Make

ODM = {"quant": {"weight_bits": 2, "act_bits": 2, "quantizer": "odm"}, "run": {"bf16": False}}


class Doubling(Workers):
    """As if another process had three times the gradients of this one."""

    def average(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2)


def flat(gradients: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("workers", [Workers(), Doubling()], ids=["one process", "several"])
def test_a_mismatch_counts_as_far_as_it_agrees(make: Make, monkeypatch: pytest.MonkeyPatch, workers: Workers) -> None:
    monkeypatch.setattr(odm, "MISMATCH", 1e-3)  # in a network as small as this one
    trainer = Trainer(make(ODM))
    network, batch = trainer.network, trainer.sampler(0)
    parameters = list(network.parameters())
    loss, mismatch = trainer.loss(*batch)
    assert isinstance(mismatch, Tensor) and mismatch > 0
    g = flat(torch.autograd.grad(loss, parameters, retain_graph=True))
    m = flat(torch.autograd.grad(mismatch, parameters, allow_unused=True, materialize_grads=True))
    cosine = float(g @ m / (g.norm() * m.norm()))
    assert 0.01 < abs(cosine) < 0.99 and float(m.norm()) > 0.01 * float(g.norm())

    value = float(loss.detach())
    loss, mismatch = trainer.loss(*batch)
    backward(network, loss, mismatch, workers)
    times = 2 if isinstance(workers, Doubling) else 1
    wanted = times * (g + (cosine + 1) / 2 * m)
    torch.testing.assert_close(flat(p.grad for p in parameters), wanted, rtol=1e-4, atol=1e-6)
    assert float(loss.detach()) == pytest.approx(times * value)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_have_the_mismatch_of_one_on_the_whole_batch(count: int) -> None:
    """Where all shares of the batch are alike."""
    share = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for batch, processes in ((share.repeat(count, 1, 1, 1), 1), (share, count)):
        quantizer = odm.ODMInput(QuantConfig(quantizer="odm"), 3)
        quantizer.observe(share)
        quantizer.finish_calibration()
        quantizer.processes = processes
        scale = torch.ones((), requires_grad=True)
        quantizer(scale * batch)
        mismatch = quantizer.mismatch()
        assert isinstance(mismatch, Tensor)
        mismatch.backward()
        gradients.append(scale.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("factor", "wanted"), [(3.0, 1.0), (-0.5, 0.0), (0.0, 0.5)])
def test_agreement_of_directions(factor: float, wanted: float) -> None:
    gradients = [torch.randn(3, 4), torch.randn(5)]
    found = agreement(gradients, [factor * gradient for gradient in gradients])
    assert float(found) == pytest.approx(wanted, abs=1e-6)


def test_compiled_blocks_go_back_twice(make: Make) -> None:
    shape = {"model": {"blocks": 1}}
    gradients = []
    for compiled in (False, True):
        trainer = Trainer(make(ODM, shape, {"run": {"compile": compiled}}))
        trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
        trainer.update(*trainer.sampler(0))
        gradients.append(flat(p.grad for p in trainer.network.parameters()))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
