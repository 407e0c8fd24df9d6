"""A photograph in memory."""

from dataclasses import dataclass

from quantsr.pixels import Pixels


class PhotoError(ValueError):
    """A file that cannot be read, written or enlarged as asked; names the file, what was got and what was wanted."""


@dataclass(frozen=True)
class Metadata:
    """What travels beside the pixels, as bytes that are not interpreted; empty where there is nothing.

    exif: a TIFF structure, without the prefix "Exif". dpi: horizontal and vertical.
    """

    exif: bytes = b""
    xmp: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Photo:
    """pixels: upright, see `quantsr.pixels`."""

    pixels: Pixels
    metadata: Metadata = Metadata()
