"""One upload: what its head tells before anything is decoded, and the work itself."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from quantsr import images, zoo
from quantsr.engine import Engine
from quantsr.images import UInt8

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # no other decoder of Pillow's ever sees an upload
TILE = 256  # LR pixels between two looks at whether to go on; halos add 13 % of CPU time to a photo of 512x384
PNG_LEVEL = 1  # zlib's: a quarter of the time of the default for a sixth more bytes


class UnknownFormat(ValueError):
    """No photo, or none of FORMATS."""


class TooManyPixels(ValueError):
    """The photo, or its result, has more pixels than are allowed."""


@dataclass(frozen=True)
class Head:
    """width and height: as stored, before turning upright. orientation: EXIF's, 1 to 8; 1 for a TIFF, which Pillow
    turns upright by itself. icc: empty if there is none.
    """

    width: int
    height: int
    orientation: int
    icc: bytes


def read_head(file: str | os.PathLike[str] | BinaryIO) -> Head:
    """Decodes no pixels. Raises UnknownFormat; TooManyPixels for sizes that Pillow refuses."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            exif = Image.Exif()  # not image.getexif(), which decodes a PNG
            exif.load(image.info.get("exif") or b"")
            orientation = exif.get(ExifTags.Base.Orientation, 1)
            icc = b"" if image.mode == "CMYK" else image.info.get("icc_profile") or b""  # inks; the result is RGB
            return Head(*image.size, orientation if orientation in range(1, 9) else 1, icc)
    except Image.DecompressionBombError:
        raise TooManyPixels("the photo has far more pixels than can be enlarged here") from None
    except Exception:  # whatever a decoder makes of a hostile head
        raise UnknownFormat("this file is not a photo that can be read; wanted PNG, JPEG, WebP, TIFF or BMP") from None


def check_pixels(head: Head, scale: int, most: int) -> None:
    """Raises TooManyPixels if the result would have more than `most`."""
    pixels = head.width * head.height * scale**2
    if pixels > most:
        got, limit = math.ceil(pixels / 1e5) / 10, most / 1e6
        raise TooManyPixels(
            f"the result would have {got:g} megapixels and this server makes at most {limit:g}; "
            "choose a smaller photo or scale"
        )


def enlarge(
    photo: Path, result: Path, model: str, depth: str, threads: int | None, advance: Callable[[float], None]
) -> None:
    """Enlarges an image file into a PNG, turned upright, with its colour profile.

    advance: called with the share that is done, 0 to 1, before the first tile and after each; what it raises ends the
    work. Raises ImageError for a file that cannot be read. The model is loaded anew, which takes 0.1 s, so that no
    buffers stay behind; not by `quantsr.load`, whose engines wait for Python's cycle collector.
    """
    engine = Engine(zoo.load_packed(model), depth, threads)
    image = _upright(photo)
    height, width, scale = *image.shape[:2], engine.upscale
    tiles = math.ceil(height / TILE) * math.ceil(width / TILE)
    pixels = np.empty((height * scale, width * scale, 3), np.uint8)
    advance(0)
    for done, (y, x, part) in enumerate(engine.parts(images.to_float(image), TILE), 1):
        pixels[y : y + part.shape[0], x : x + part.shape[1]] = images.to_uint8(part)
        advance(done / tiles)
    icc = read_head(photo).icc
    images.write(result, pixels, compress_level=PNG_LEVEL, **({"icc_profile": icc} if icc else {}))


def _upright(photo: Path) -> UInt8:
    stored = Image.fromarray(images.read(photo))
    stored.getexif()[ExifTags.Base.Orientation] = read_head(photo).orientation
    return np.array(ImageOps.exif_transpose(stored))
