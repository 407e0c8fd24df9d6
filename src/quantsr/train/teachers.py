"""Frozen networks that others learn from."""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantsr import checkpoint, images
from quantsr.config import TrainConfig
from quantsr.models.rlfn import RLFN
from quantsr.pickles import PickleRefused, load_tensors

VIEWS = ((0, False), (1, True), (2, False), (3, True), (0, True), (1, False), (2, True), (3, False))  # turns, mirrored


def load_teacher(config: TrainConfig, device: torch.device) -> nn.Module:
    """The run's teacher in eval mode, without gradients: `Averaged` over several views, `Reduced` to the upscale.

    Raises CheckpointError if its file does not fit its kind, if it enlarges less than the student, or if it cannot take
    the run's patches.
    """
    path = Path(config.teacher.weights)
    network = _rlfn(path) if config.teacher.kind == "rlfn" else checkpoint.load_network(path)[0]
    wanted = config.model.upscale
    require_upscale(path, network.upscale, wanted)
    patch = config.data.patch
    try:
        network.eval()(torch.zeros(1, 3, patch, patch))
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"{path}: got patches of {patch} pixels, which are too small for this teacher; raise data.patch"
        ) from error
    upscale = network.upscale
    if config.teacher.views > 1:
        network = Averaged(network, config.teacher.views)
    if upscale > wanted:
        network = Reduced(network, wanted)
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def require_upscale(path: Path, got: int, wanted: int) -> None:
    """Raises CheckpointError for a teacher that enlarges less than the student."""
    if got < wanted:
        raise checkpoint.CheckpointError(f"{path}: got a teacher of x{got}, wanted x{wanted} or more")


class Averaged(nn.Module):
    """The mean of what a network makes of the first `count` of eight turned and mirrored views of each image.

    (N, 3, H, W) -> (N, 3, H*s, W*s), float32, RGB in [0, 1]. The geometric self-ensemble of EDSR (Lim et al., CVPRW
    2017, 1707.02921).
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network, self.count = network, count

    def forward(self, lr: Tensor) -> Tensor:
        return torch.stack([self._seen(lr, *view) for view in VIEWS[: self.count]]).mean(dim=0)

    def _seen(self, lr: Tensor, turns: int, mirrored: bool) -> Tensor:
        view = lr.rot90(turns, (2, 3))
        sr: Tensor = self.network(view.flip(3) if mirrored else view).float()
        return (sr.flip(3) if mirrored else sr).rot90(-turns, (2, 3))


class Reduced(nn.Module):
    """A network of a larger upscale, its output shrunk by the benchmarks' bicubic, unrounded.

    (N, 3, H, W) -> (N, 3, H*upscale, W*upscale), float32, RGB in [0, 1].
    """

    def __init__(self, network: nn.Module, upscale: int) -> None:
        super().__init__()
        self.network, self.upscale = network, upscale
        self._matrices: dict[tuple[int, int, torch.device], Tensor] = {}

    @property
    def trunk(self) -> nn.Module:
        """The module whose output is the trunk's: what distillation of features compares."""
        trunk: nn.Module = self.network.trunk
        return trunk

    def forward(self, lr: Tensor) -> Tensor:
        large = self.network(lr).float()
        rows, columns = (
            self._matrix(old, side * self.upscale, large)
            for old, side in zip(large.shape[2:], lr.shape[2:], strict=True)
        )
        with torch.autocast(large.device.type, enabled=False):
            return rows @ large @ columns.T

    def _matrix(self, old: int, new: int, like: Tensor) -> Tensor:
        key = old, new, like.device
        if key not in self._matrices:
            self._matrices[key] = torch.from_numpy(images.resize_matrix(old, new)).to(like)
        return self._matrices[key]


def _rlfn(path: Path) -> RLFN:
    try:
        weights = load_tensors(path)
        network = RLFN()
        network.load_state_dict(weights)
    except (PickleRefused, OSError, RuntimeError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not RLFN x4 weights ({error})") from error
    return network
