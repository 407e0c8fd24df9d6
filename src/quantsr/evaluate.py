"""Scores of anything that makes a larger image from a smaller one, over benchmark pairs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from quantsr import metrics
from quantsr.data.benchmarks import Pair
from quantsr.images import UInt8

Upscaler = Callable[[UInt8], UInt8]


@dataclass(frozen=True)
class Score:
    """Means over a set's images: psnr in dB and ssim, both on Y, `upscale` pixels cropped."""

    psnr: float
    ssim: float
    images: int


def evaluate(upscaler: Upscaler, pairs: Iterable[Pair], upscale: int) -> Score:
    """Scores an upscaler, uint8 (H, W, 3) -> uint8 (H*s, W*s, 3), by the papers' protocol.

    Raises ValueError if there is no pair or a result has the wrong shape.
    """
    results = ((upscaler(pair.lr), pair.hr) for pair in pairs)
    rows = [(metrics.psnr(sr, hr, upscale), metrics.ssim(sr, hr, upscale)) for sr, hr in results]
    if not rows:
        raise ValueError("got no image pair, wanted at least one")
    psnr, ssim = np.mean(rows, axis=0)
    return Score(float(psnr), float(ssim), len(rows))
