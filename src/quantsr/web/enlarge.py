"""One upload: what its head tells before anything is decoded, and the work itself."""

import math
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from quantsr import photos
from quantsr.model import load
from quantsr.photos.formats import READERS

TILE = 256  # LR pixels between two looks at whether to go on; halos add 13 % of CPU time to a photo of 512x384


class UnknownFormat(ValueError):
    """No photo, or of a format that is not read."""


class TooManyPixels(ValueError):
    """The photo, or its result, has more pixels than are allowed."""


def check_size(photo: Path, scale: int, most: int) -> None:
    """Raises TooManyPixels if the result would have more than `most` pixels, UnknownFormat. Decodes no pixels."""
    try:
        with Image.open(photo, formats=READERS) as image:
            pixels = image.width * image.height * scale**2
    except Image.DecompressionBombError:
        raise TooManyPixels("the photo has far more pixels than can be enlarged here") from None
    except Exception:  # whatever a decoder makes of a hostile head
        wanted = "PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF"
        raise UnknownFormat(f"this file is not a photo that can be read; wanted {wanted}") from None
    if pixels > most:
        got, limit = math.ceil(pixels / 1e5) / 10, most / 1e6
        raise TooManyPixels(
            f"the result would have {got:g} megapixels and this server makes at most {limit:g}; "
            "choose a smaller photo or scale"
        )


def enlarge(
    photo: Path, result: Path, model: str, depth: str, threads: int | None, advance: Callable[[float], None]
) -> None:
    """Enlarges an image file into one of the format that its name tells, with all that the photo holds.

    advance: called with the share that is done, 0 to 1, before the first tile, after each, and while the result is
    written; what it raises ends the work. Raises PhotoError for a file that cannot be read, for
    what the format cannot hold, and for a result that differs from its input.
    """
    read, network = photos.read(photo), load(model, threads)
    photos.check_fits(result, read, network.scale)
    advance(0)
    pixels = network.upscale(read.pixels, depth, TILE, progress=advance)
    if wrong := photos.mismatch(read.pixels, pixels, network.scale):
        raise photos.PhotoError(str(wrong))
    photos.write(result, photos.Photo(pixels, read.metadata), proceed=lambda: advance(1))
