"""Images as arrays: reading, conversions, BT.601 luma, and bicubic resizing as MATLAB does it.

Layout is HWC, colour is RGB. The papers' low-resolution images were made with MATLAB `imresize(hr, 1/s)` on uint8;
`downscale` repeats it sample for sample, because another resizer moves PSNR by more than most methods gain.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966])  # BT.601 for RGB in [0, 1]; adds up to 219
LUMA_OFFSET = 16.0
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
READABLE_MODES = ("L", "P", "1", "RGB", "CMYK", "YCbCr")


class ImageError(ValueError):
    """An image file that cannot be read."""


def read(path: str | os.PathLike[str]) -> UInt8:
    """Reads an image file as uint8 RGB, shape (H, W, 3). Gray images get three equal channels.

    Raises ImageError for a file that is no image, is truncated, or holds several frames, transparency or 16 bits.
    """
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The decoded image; whatever is wrong with the file becomes an ImageError."""
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # in a camera's MPO the other frames are previews
                raise ImageError(f"{path}: got an animation of {frames} frames, wanted one image")
            if image.mode not in READABLE_MODES or "transparency" in image.info:
                kind = "transparency" if "transparency" in image.info else f"pixel mode {image.mode}"
                raise ImageError(f"{path}: got {kind}, wanted 8-bit gray, palette, RGB or CMYK; convert it first")
            image.load()
            yield image
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, wanted an image file") from None
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a readable image ({error})") from error


def to_float(image: NDArray[np.unsignedinteger]) -> Float32:
    """uint8 [0, 255] or uint16 [0, 65535] -> float32 [0, 1], same shape, by one float32 division."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def to_uint8(image: NDArray[np.floating]) -> UInt8:
    """float [0, 1] -> uint8: clamp, times 255, round half to even. Same shape."""
    return to_levels(image, np.dtype(np.uint8))


def to_levels(image: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """float [0, 1] -> uint8 or uint16: clamp, times 255 or 65535, round half to even. Same shape."""
    levels = np.clip(image, 0, 1)
    levels *= image.dtype.type(np.iinfo(dtype).max)
    return np.rint(levels, out=levels).astype(dtype)


def luma(image: UInt8) -> Float64:
    """BT.601 Y of uint8 RGB (H, W, 3): float64 (H, W) in [16, 235], not rounded."""
    return (image.astype(np.float64) / 255) @ LUMA_WEIGHTS + LUMA_OFFSET


def crop_to_multiple(image: UInt8, multiple: int) -> UInt8:
    """The largest top-left part whose sides are multiples of `multiple`. (H, W, ...) -> (H', W', ...)."""
    height, width = image.shape[0] // multiple * multiple, image.shape[1] // multiple * multiple
    if not height or not width:
        raise ImageError(f"got an image of {image.shape[1]}x{image.shape[0]}, wanted at least {multiple}x{multiple}")
    return image[:height, :width]


def downscale(hr: UInt8, upscale: int) -> UInt8:
    """The benchmark's LR image: MATLAB `imresize(hr, 1/upscale)` on uint8. (H, W, ...) -> (H//s, W//s, ...).

    HR is first cropped at the top left to multiples of `upscale`.
    """
    hr = crop_to_multiple(hr, upscale)
    return _resize(hr, hr.shape[0] // upscale, hr.shape[1] // upscale)


def shrink(image: UInt8, size: float) -> UInt8:
    """MATLAB `imresize` on uint8 to `size` times the sides, at least one pixel. (H, W, ...); size: above 0, to 1."""
    height, width = (max(1, round(side * size)) for side in image.shape[:2])
    return _resize(image, height, width)


def bicubic(lr: NDArray[Any], upscale: int) -> NDArray[Any]:
    """MATLAB `imresize(lr, upscale)` on uint8, or uint16. (H, W, ...) -> (H*s, W*s, ...).

    The baseline of every table.
    """
    return _resize(lr, lr.shape[0] * upscale, lr.shape[1] * upscale)


def _resize(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    # Height first, rounding in between: MATLAB returns to integers after each direction.
    image = _resize_rows(image, height)
    return np.ascontiguousarray(_resize_rows(image.swapaxes(0, 1), width).swapaxes(0, 1))


def _resize_rows(image: NDArray[Any], size: int) -> NDArray[Any]:
    weights, indices = _taps(image.shape[0], size)
    total = np.zeros((size, *image.shape[1:]))
    column = (-1,) + (1,) * (image.ndim - 1)
    for weight, index in zip(weights, indices, strict=True):
        total += weight.reshape(column) * image[index]
    white = np.iinfo(image.dtype).max
    return np.floor(np.clip(total, 0, white) + 0.5).astype(image.dtype)  # half rounds up, as in MATLAB


@lru_cache(maxsize=64)
def resize_matrix(old: int, new: int) -> Float64:
    """The weights of MATLAB's `imresize` of a line of `old` samples to `new`: (new, old), each row of sum 1."""
    matrix = np.zeros((new, old))
    for weight, index in zip(*_taps(old, new), strict=True):
        np.add.at(matrix, (np.arange(new), index), weight)
    return matrix


@lru_cache(maxsize=64)
def _taps(old: int, new: int) -> tuple[Float64, NDArray[np.int64]]:
    """Weights and source rows of every output row, both (taps, new). Borders mirror with the edge repeated."""
    ratio = old / new
    widen = max(ratio, 1.0)  # a shrinking kernel is stretched so that it also low-passes
    centre = (np.arange(new) + 0.5) * ratio - 0.5
    first = np.floor(centre - 2 * widen).astype(np.int64)
    index = first + np.arange(int(np.ceil(4 * widen)) + 2)[:, None]
    weight = _cubic((centre - index) / widen)
    weight /= weight.sum(axis=0)
    used = weight.any(axis=1)
    mirrored = np.concatenate([np.arange(old), np.arange(old)[::-1]])[index[used] % (2 * old)]
    return weight[used], mirrored


def _cubic(x: Float64) -> Float64:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE TASSP 29(6), 1981)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
