"""Gradients of a step: of the loss, and of what may only help it."""

import torch
from torch import Tensor, nn

from quantsr.train.distributed import Workers


def backward(network: nn.Module, loss: Tensor, mismatch: Tensor | float, workers: Workers) -> None:
    """Leaves in `grad` of the network's parameters the gradient of the step, the mean over all processes.

    loss becomes its mean too. mismatch: a scalar whose gradient m is weighed by its agreement with that of the loss, g:
    g + (cos(g, m) + 1) / 2 * m, over all parameters together (ODM, arXiv 2307.13337); 0.0 if there is none.
    """
    loss.backward(retain_graph=isinstance(mismatch, Tensor))
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    workers.average([loss.detach(), *gradients])
    if isinstance(mismatch, Tensor):
        others = torch.autograd.grad(mismatch, parameters, allow_unused=True, materialize_grads=True)
        workers.average(others)
        torch._foreach_add_(gradients, torch._foreach_mul(others, agreement(gradients, others)))


def agreement(gradients: list[Tensor], others: list[Tensor]) -> Tensor:
    """From 0 for opposite directions to 1 for the same one; a gradient of zeros is at right angles to all."""
    product = torch.stack([(one * other).sum() for one, other in zip(gradients, others, strict=True)]).sum()
    lengths = nn.utils.get_total_norm(gradients) * nn.utils.get_total_norm(others)
    return (product / lengths.clamp(min=torch.finfo(lengths.dtype).tiny) + 1) / 2
