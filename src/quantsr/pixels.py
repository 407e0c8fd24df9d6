"""Pixels of any photograph and the float RGB that networks take: gray, transparency, 8 and 16 bits.

Layouts: (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB, (H, W, 4) RGB and alpha; uint8 or uint16. Alpha is
straight, not premultiplied.

Alpha is enlarged by the network too, as a gray picture: on masks of hard shapes that is 7 dB nearer to the truth than
bicubic interpolation (on soft ones 1 dB farther), and its edges are as sharp as those of the colours. But networks keep
no flat area exactly, and ring beside an edge, which shows as a ghost of it. So no pixel leaves the range of the 3x3
alphas around it, and where bicubic interpolation reaches an end of that range, it is taken: 255 stays 255, 0 stays 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsr import images

Pixels = NDArray[Any]  # uint8 or uint16
Float32 = NDArray[np.float32]

LAYOUTS = "uint8 or uint16 of shape (H, W), (H, W, 2), (H, W, 3) or (H, W, 4)"
BAND = 64  # rows of alpha at once, as bicubic interpolation takes 8 bytes a sample
BICUBIC_REACH = 4  # rows; beyond, bicubic interpolation looks at nothing


def check(image: Pixels) -> None:
    """Raises ValueError for anything but one of the layouts with at least one pixel."""
    fits = isinstance(image, np.ndarray) and image.dtype in (np.uint8, np.uint16) and image.ndim in (2, 3)
    if not fits or not image.size or (image.ndim == 3 and image.shape[2] not in (2, 3, 4)):
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"got {got}, wanted {LAYOUTS}")


def levels(image: Pixels) -> int:
    """The value of white: 255 or 65535."""
    return int(np.iinfo(image.dtype).max)


def has_alpha(image: Pixels) -> bool:
    return image.ndim == 3 and image.shape[2] in (2, 4)


def is_gray(image: Pixels) -> bool:
    return image.ndim == 2 or image.shape[2] == 2


def colours(image: Pixels) -> Pixels:
    """Without alpha: (H, W, 1) or (H, W, 3), a view."""
    if image.ndim == 2:
        return image[..., None]
    return image[..., :-1] if has_alpha(image) else image


def to_network(image: Pixels) -> Float32:
    """(H, W, 3) float32 RGB in [0, 1]. Gray three times; fully transparent pixels take the colour around them."""
    colour = colours(image)
    if has_alpha(image) and not image[..., -1].all():
        floats = _spread(colour, image[..., -1])
    else:
        floats = images.to_float(colour)
    return floats if floats.shape[2] == 3 else np.repeat(floats, 3, axis=2)


def from_network(part: Float32, like: Pixels) -> Pixels:
    """Float RGB (h, w, 3) as the colours of `like`: (h, w, 1) or (h, w, 3), clamped, rounded half to even."""
    if is_gray(like):
        part = part.mean(axis=2, keepdims=True)
    return images.to_levels(part, like.dtype)


def calm(enlarged: Pixels, alpha: Pixels, upscale: int) -> None:
    """Takes the network's ringing out of its `enlarged` (upscale*H, upscale*W) of `alpha` (H, W), in place."""
    for top in range(0, len(alpha), BAND):
        rows = slice(max(0, top - BICUBIC_REACH), top + BAND + BICUBIC_REACH)
        skip, height = top - rows.start, min(BAND, len(alpha) - top)
        part = alpha[rows]
        inner = slice(skip, skip + height)
        low, high = (_spaced(_extreme(part, of)[inner], upscale) for of in (np.minimum, np.maximum))
        smooth = images.bicubic(part, upscale)[skip * upscale : (skip + height) * upscale]
        result = enlarged[top * upscale : (top + height) * upscale]
        np.clip(result, low, high, out=result)
        np.copyto(result, low, where=smooth <= low)
        np.copyto(result, high, where=smooth >= high)


def _spaced(values: Pixels, upscale: int) -> Pixels:
    return np.repeat(np.repeat(values, upscale, axis=0), upscale, axis=1)


def _extreme(alpha: Pixels, of: np.ufunc) -> Pixels:
    """The smallest or largest value of each pixel and its eight neighbours."""
    padded = np.pad(alpha, 1, mode="edge")
    rows = of.reduce([padded[y : y + alpha.shape[0]] for y in range(3)])
    result: Pixels = of.reduce([rows[:, x : x + alpha.shape[1]] for x in range(3)])
    return result


def _spread(colour: Pixels, alpha: Pixels) -> Float32:
    """The colours, with those under zero alpha replaced by means, weighted by alpha, of ever larger surroundings.

    What a file stores there is arbitrary, often black, and would be drawn into the visible rim by the network.
    """
    weight = images.to_float(alpha)[..., None]
    return _filled(images.to_float(colour) * weight, weight)


def _filled(premultiplied: Float32, weight: Float32) -> Float32:
    height, width = weight.shape[:2]
    empty = weight[..., 0] == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        colour = premultiplied / weight
    if not empty.any():
        return colour
    if max(height, width) == 1 or empty.all():
        colour[empty] = 0
        return colour
    coarse = _filled(_halved(premultiplied), _halved(weight))
    colour[empty] = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width][empty]
    return colour


def _halved(values: Float32) -> Float32:
    height, width = values.shape[:2]
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    total: Float32 = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return total / np.float32(4)
