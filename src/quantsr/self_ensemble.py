"""The geometric self-ensemble: the mean of what a network makes of turned and mirrored views of an image, turned back.

EDSR (Lim et al., CVPRW 2017, arXiv 1707.02921); other upscalers call it test-time augmentation, TTA. What a network
gets wrong depends on how the image lies; the mean of eight views has less of it, for eight times the work.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from quantsr.engine import Array, Engine, Rectangle


class View(NamedTuple):
    """First the rows in reverse, then the columns, then rows and columns exchanged."""

    upside_down: bool
    mirrored: bool
    transposed: bool

    def of(self, image: Array) -> Array:
        """(H, W, C) -> (H, W, C) or (W, H, C), without a copy."""
        image = self._reversed(image)
        return image.transpose(1, 0, 2) if self.transposed else image

    def undone(self, seen: Array) -> Array:
        """The inverse of `of`."""
        return self._reversed(seen.transpose(1, 0, 2) if self.transposed else seen)

    def place(self, rectangle: Rectangle, height: int, width: int) -> Rectangle:
        """Where a rectangle of an image of this size lies in the view of it."""
        top, left, bottom, right = rectangle
        if self.upside_down:
            top, bottom = height - bottom, height - top
        if self.mirrored:
            left, right = width - right, width - left
        return Rectangle(left, top, right, bottom) if self.transposed else Rectangle(top, left, bottom, right)

    def _reversed(self, image: Array) -> Array:
        return image[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


PLAIN = View(False, False, False)
EIGHT = tuple(View(*flags) for flags in product((False, True), repeat=3))


def mean(
    engine: Engine, image: Array, rectangle: Rectangle, views: Sequence[View], seen: Callable[[float], None]
) -> Array:
    """`Engine.part` as a mean over views: float32 (upscale*h, upscale*w, 3), of a rectangle of h x w pixels.

    Not clamped. Neither the rectangle's neighbours nor the instruction set change a bit. seen: called after each view
    with the pixels of the result divided by the number of views, so that all calls add up to its pixels.
    """

    def result(view: View) -> Array:
        part = engine.part(view.of(image), view.place(rectangle, *image.shape[:2]))
        seen(part.shape[0] * part.shape[1] / len(views))
        return view.undone(part)

    if len(views) == 1:
        return result(views[0])
    total = np.ascontiguousarray(result(views[0]))  # without its halo
    for view in views[1:]:
        total += result(view)
    total /= np.float32(len(views))
    return total
