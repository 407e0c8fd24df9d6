"""The optimiser of a run: Adam, or Muon for the weights of the trunk and Adam for all else.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) steps along the orthogonal matrix that is nearest to the
averaged gradient of a weight matrix; a convolution's weight (O, I, K, K) is the matrix (O, K*K*I). The root mean square
of a step is 0.2 of the learning rate whatever the shape (Liu et al., 2025, arXiv 2502.16982), which makes Adam's rates
fit. Differs from both: no weight decay.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quantsr.config import OptimConfig

TRUNK = ("body.", "after_body.")


class Optimizer:
    """Steps the parameters of a network that take gradients.

    Groups with rates of their own: weights, biases and gains; the quantizers' steps and bounds; their shifts.
    """

    def __init__(self, network: nn.Module, config: OptimConfig) -> None:
        """network: on its device, its convolutions channels last; RuntimeError where Muon finds them otherwise."""
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.stepped = dict(self.parameters)  # what the optimisers step: the parameters, or views of them as matrices
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            if config.method == "muon" and _is_matrix(name, parameter):
                self.stepped[name] = nn.Parameter(_as_matrix(parameter.detach()).view(len(parameter), -1))
                continue
            quantizer_rate = config.shift_rate if name.endswith("shift") else config.quantizer_rate
            groups.setdefault(quantizer_rate if "quantizer" in name else 1.0, []).append(parameter)
        self.matrices = [name for name, parameter in self.parameters.items() if self.stepped[name] is not parameter]
        self.methods: list[torch.optim.Optimizer] = [_adam(groups, config)]
        if self.matrices:
            self.methods.append(_muon([self.stepped[name] for name in self.matrices], config))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for method in self.methods for group in method.param_groups]

    def set_rate(self, rate: float) -> None:
        """rate: the learning rate of the weights."""
        for group in self.param_groups:
            group["lr"] = rate * group["relative_rate"]

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for name in self.matrices:
            grad = self.parameters[name].grad
            self.stepped[name].grad = None if grad is None else _as_matrix(grad).reshape(len(grad), -1)
        for method in self.methods:
            method.step()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state, as pairs of "<field>.<parameter>" and a tensor."""
        for name, method, stepped in self._owners():
            for field, value in method.state[stepped].items():
                yield f"{field}.{name}", value

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, method, stepped in self._owners():
            fields = {key.split(".", 1)[0]: t for key, t in tensors.items() if key.split(".", 1)[1] == name}
            state = {field: t.to(stepped.device) for field, t in fields.items()}  # fused Adam counts steps there too
            for field, value in state.items():
                if value.shape == stepped.shape:
                    state[field] = torch.empty_like(stepped).copy_(value)  # the parameter's own layout
            method.state[stepped] = state

    def _owners(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for name, stepped in self.stepped.items():
            yield name, self.methods[1 if name in self.matrices else 0], stepped


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith(TRUNK) and name.endswith(".weight") and parameter.dim() > 1


def _as_matrix(weight: Tensor) -> Tensor:
    """(O, I) as it is, (O, I, K, K) as (O, K, K, I), which in memory it is already when its channels come last."""
    return weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight


def _adam(groups: dict[float, list[nn.Parameter]], config: OptimConfig) -> torch.optim.Adam:
    tables = [{"params": parameters, "relative_rate": rate} for rate, parameters in groups.items()]
    return torch.optim.Adam(tables, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def _muon(matrices: list[nn.Parameter], config: OptimConfig) -> torch.optim.Muon:
    table = {"params": matrices, "relative_rate": 1.0}
    return torch.optim.Muon([table], lr=config.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")


def learning_rate(config: OptimConfig, step: int) -> float:
    """The weights' learning rate of a step (0-based): linear warm-up, then cosine or step decay."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** sum(progress >= m for m in config.milestones)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)
