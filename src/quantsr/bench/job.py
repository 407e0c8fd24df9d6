"""What a worker process is told to run, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from quantsr.bench import parts


@dataclass(frozen=True)
class Job:
    """One engine on one part.

    network: folder of the part, as the case wrote it: `low.safetensors`, the packed part; `float.safetensors`, the
    float one for peers; `calibration.npy`, float32 (N, H, W, C) samples of its input.
    built: folder for what the engine makes of them before it runs (an ONNX file, a quantized model).
    image: file of the input, float32 (H, W, C). output: where to leave the result of the last run, likewise.
    """

    engine: str
    network: Path
    built: Path
    image: Path
    output: Path
    threads: int

    def low(self) -> parts.Part:
        return parts.load(self.network / "low.safetensors")

    def plain(self) -> parts.Part:
        return parts.load(self.network / "float.safetensors")

    def calibration(self) -> list[np.ndarray]:
        """Samples in the layout of other runtimes, (1, C, H, W)."""
        return [planar(sample) for sample in np.load(self.network / "calibration.npy")]

    def pixels(self) -> np.ndarray:
        return np.load(self.image)

    def planar_pixels(self) -> np.ndarray:
        return planar(self.pixels())


class Runner(Protocol):
    """An engine, loaded and given its input."""

    def run(self) -> None:
        """Once, keeping the result."""

    def result(self) -> np.ndarray:
        """Of the last run: float32 (H, W, C)."""

    def kernels(self) -> Mapping[str, int]:
        """What really computes the convolutions, with how many there are of each; empty where nobody tells."""


def planar(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def interleaved(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[0].transpose(1, 2, 0))
