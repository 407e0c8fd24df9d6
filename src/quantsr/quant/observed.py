"""What calibration sees of an activation."""

import numpy as np
import torch
from torch import Tensor

SAMPLE = 2**16  # values kept of a batch: a percent of the tail is then still some hundred values


class Observed:
    """Statistics over all calibration batches; per batch, so that sums do not depend on their order."""

    def __init__(self) -> None:
        self._lows: list[float] = []
        self._magnitudes: list[tuple[float, int]] = []  # sum of |x|, count
        self._peaks: list[Tensor] = []  # max|x| of each image
        self._samples: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """A batch (N, C, ...), float32."""
        self._lows.append(float(x.min()))
        self._magnitudes.append((float(x.abs().sum()), x.numel()))
        self._peaks.append(x.abs().flatten(1).amax(1).cpu())
        self._samples.append(_sample(x.transpose(0, 1).flatten(1)).cpu())

    @property
    def batches(self) -> int:
        return len(self._lows)

    @property
    def low(self) -> float:
        return min(self._lows)

    @property
    def mean_magnitude(self) -> float:
        return sum(total for total, _ in self._magnitudes) / sum(count for _, count in self._magnitudes)

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return float(torch.cat(self._peaks).max())

    @property
    def mean_peak(self) -> float:
        """Mean over the images of the largest magnitude in each."""
        return float(torch.cat(self._peaks).mean())

    @property
    def values(self) -> Tensor:
        """Some of all batches, by channel: (C, n), about SAMPLE of each batch, at pixels drawn with a fixed seed."""
        return torch.cat(self._samples, 1)

    def percentile(self, percent: float, *, magnitude: bool = False) -> float:
        """Of x, or of |x|; from `values`."""
        values = self.values.flatten()
        return float(np.percentile((values.abs() if magnitude else values).numpy(), percent))


def _sample(values: Tensor) -> Tensor:
    channels, pixels = values.shape
    if values.numel() <= SAMPLE:
        return values
    chosen = torch.randint(pixels, (max(1, SAMPLE // channels),), generator=torch.Generator().manual_seed(0))
    return values[:, chosen.to(values.device)]
