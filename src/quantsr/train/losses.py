"""What a training run minimises.

For each depth of the run, with T the teacher's output and F the output of the same network at full depth:

    L1(sr, hr) and, of the teacher's share, L1(sr, T)
    shallower depths, of the sandwich's share, L1(sr, F), no gradient through F   (Yu & Huang, ICCV 2019, 1903.05134)
    + feature_weight * mean over images of |A(student) - A(teacher)|
    + what the quantizers add themselves (`quant.penalty`)

Beside it stands what is only lowered as far as that agrees with the loss (`quant.mismatch`, `gradients.backward`).

A is the trunk's attention map, the squared features summed over channels and divided by their L2 norm (Zagoruyko &
Komodakis, ICLR 2017, 1612.03928; PAMS uses it for SR); it needs equal resolution, not equal widths.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.config import ConfigError, RunConfig, TrainConfig
from quantsr.quant import mismatch, penalty


class Objective:
    """The loss of a batch, a scalar in [0, 1] units of the images, and the mismatch of its quantizers, or 0.0.

    Watches the trunks of student and teacher by hooks if features are distilled.
    """

    def __init__(self, config: TrainConfig, network: nn.Module, teacher: nn.Module | None) -> None:
        self.network, self.teacher, self.settings = network, teacher, config.teacher
        self.depths = trained_depths(config.run)
        self.device_type = torch.device(config.run.device).type
        self.bf16 = config.run.bf16 and runs_bf16(self.device_type)
        self.distances = torch.compile(_distances) if config.run.compile else _distances
        self.maps: dict[nn.Module, Tensor] = {}
        if teacher is not None and self.settings.feature_weight:
            for watched in (network, teacher):
                watched.trunk.register_forward_hook(lambda _, __, out, key=watched: self._keep(key, out))

    def __call__(self, lr: Tensor, hr: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """lr (N, 3, H, W), hr (N, 3, H*s, W*s) or, if the teacher alone decides, None; RGB in [0, 1]."""
        taught = self._taught(lr)
        target = taught if hr is None else hr
        assert target is not None
        total, apart = torch.zeros((), device=lr.device), 0.0
        full: Tensor | None = None
        for depth, share in self.depths.items():
            with self._autocast():
                sr = self.network(lr, depth=depth).float()
            loss = self.distances(sr, *self._targets(target, taught, full))
            if self.maps:
                loss = loss + self.settings.feature_weight * self._distance()
            loss = loss + penalty(self.network)
            if depth == "full":
                full = sr.detach()
            total = total + share * loss
            apart = apart + share * mismatch(self.network)
        return total, apart

    def _targets(self, target: Tensor, taught: Tensor | None, full: Tensor | None) -> tuple[list[Tensor], list[float]]:
        """What the output is to be like, and the share of the loss that each has; those without one are left out."""
        weight = 0.0 if taught is None else self.settings.weight
        sandwich = 0.0 if full is None else self.settings.sandwich
        shares = (target, (1 - weight) * (1 - sandwich)), (taught, weight * (1 - sandwich)), (full, sandwich)
        present = [(image, share) for image, share in shares if image is not None and share]
        return [image for image, _ in present], [share for _, share in present]

    @torch.no_grad()
    def _taught(self, lr: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with self._autocast():
            taught: Tensor = self.teacher(lr).float()
        return taught

    def _distance(self) -> Tensor:
        assert self.teacher is not None
        own, others = self.maps[self.network].shape[1], self.maps[self.teacher].shape[1]
        if own != others:
            raise ConfigError(
                f"teacher.feature_weight: got trunks of {own} and {others} pixels, wanted equal ones: data.patch a "
                "multiple of both windows"
            )
        return torch.linalg.vector_norm(self.maps[self.network] - self.maps[self.teacher], dim=1).mean()

    def _keep(self, network: nn.Module, features: Tensor) -> None:
        energy = features.float().square().sum(dim=1).flatten(1)  # (N, H*W)
        self.maps[network] = functional.normalize(energy, dim=1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16)


def trained_depths(run: RunConfig) -> dict[str, float]:
    """The depths that train, in order, with the loss weight of each."""
    shares = run.depth_weights or [1 / len(run.depths)] * len(run.depths)
    return {depth: share for depth, share in zip(run.depths, shares, strict=True) if share}


def runs_bf16(device_type: str) -> bool:
    """Whether a "cpu" or "cuda" device gains by bfloat16.

    Where oneDNN emulates it, a step takes 12 times as long; by AVX-512 without AMX on an Intel CPU, 1.7 times.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # before 2.13: what cannot be told apart stays in float32
        return bool(torch.cpu._is_amx_tile_supported())
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("amx_bf16")) or "Intel" not in cpu.get("cpu_name", "")  # ARM tells of neither


def _distances(sr: Tensor, targets: list[Tensor], shares: list[float]) -> Tensor:
    """The sum of the L1 distances to the targets, each times its share."""
    total = sr.new_zeros(())
    for image, share in zip(targets, shares, strict=True):
        total = total + share * functional.l1_loss(sr, image)
    return total
