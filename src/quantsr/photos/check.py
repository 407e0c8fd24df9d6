"""Is a result the enlarged input? Each of its pixels' means over upscale x upscale is held against the input's pixel.

In blocks of 16x16 input pixels, the root mean square of the differences may be FLAT + BUSY times the block's standard
deviation, in levels of 255. Measured, all bundled models and depths: on 96x96 parts of 48 photographs of B100 and
Set14, reduced and as they are, at most 7.7; on saturated flat colours at most 8.0; on noise, dither, text and
one-pixel patterns at most 0.25 of the deviation. Networks see zeros around a picture, so on sides below 32 pixels EDGE
levels are added for each part of the side that is one pixel: on saturated colours up to 111 levels were measured in a
picture of 1x1, 60 in 2x2, 33 in 4x4, 17 in 8x8, 12.4 in 16x16. A black, foreign, repeated or shifted tile exceeds the
bound wherever the picture shows more than FLAT levels of anything.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantsr import images, pixels
from quantsr.pixels import Pixels

Float32 = NDArray[np.float32]

BLOCK = 16  # input pixels on a side
FLAT, BUSY, EDGE = 12.0, 0.25, 64.0


@dataclass(frozen=True)
class Mismatch:
    """The block that differs most: its corner in input pixels, the difference and what was allowed, of 255."""

    x: int
    y: int
    difference: float
    allowed: float

    def __str__(self) -> str:
        where = f"around {self.x},{self.y} of the input"
        return f"the result differs from the input by {self.difference:.0f} of 255 {where}, allowed {self.allowed:.0f}"


def mismatch(image: Pixels, result: Pixels, upscale: int) -> Mismatch | None:
    """The worst block beyond the bound, or None. `result`: `upscale` times as large as `image`, else ValueError."""
    height, width = image.shape[:2]
    if result.shape != (height * upscale, width * upscale, *image.shape[2:]):
        raise ValueError(f"got a result of {result.shape} for {image.shape}, wanted {upscale} times the sides")
    narrow = EDGE * sum(max(0.0, 1 / side - 1 / (2 * BLOCK)) for side in (height, width))
    columns = _starts(width)[:, None] + np.arange(min(BLOCK, width))
    worst: Mismatch | None = None
    for y in _starts(height):
        old = _comparable(image[y : y + BLOCK])
        new = _comparable(result[y * upscale : (y + BLOCK) * upscale])
        means = new.reshape(len(old), upscale, width, upscale, -1).mean(axis=(1, 3))
        difference = np.sqrt(np.square(means - old)[:, columns].mean(axis=(0, 2, 3)))
        allowed = FLAT + narrow + BUSY * old[:, columns].std(axis=(0, 2)).mean(axis=-1)
        x = int(np.argmax(difference - allowed))
        found = Mismatch(int(columns[x, 0]), int(y), float(difference[x]), float(allowed[x]))
        if not found.difference <= found.allowed and (worst is None or _excess(found) > _excess(worst)):
            worst = found
    return worst


def _excess(block: Mismatch) -> float:
    return block.difference - block.allowed


def _starts(length: int) -> NDArray[np.int64]:
    """Of blocks that cover a side; the last may overlap the one before."""
    return np.minimum(np.arange(0, length, BLOCK), max(0, length - BLOCK))


def _comparable(rows: Pixels) -> Float32:
    """0 to 255; colours times alpha, as those under zero alpha are made up."""
    colour = images.to_float(pixels.colours(rows)) * np.float32(255)
    if not pixels.has_alpha(rows):
        return colour
    alpha = images.to_float(rows[..., -1:])
    return np.concatenate([colour * alpha, alpha * np.float32(255)], axis=-1)
