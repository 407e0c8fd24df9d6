"""A photograph in memory."""

from dataclasses import dataclass

from quantsr.pixels import Pixels


class PhotoError(ValueError):
    """A file that cannot be read, written or enlarged as asked; names the file, what was got and what was wanted."""


@dataclass(frozen=True)
class Metadata:
    """What travels beside the pixels, as bytes that are not interpreted; empty where there is nothing.

    exif: a TIFF structure, without the prefix "Exif". dpi: horizontal and vertical. iptc: records of IPTC-IIM, which
    JPEG and TIFF hold. comment: of a JPEG or GIF. texts: chunks of a PNG, names and data.
    """

    exif: bytes = b""
    xmp: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    iptc: bytes = b""
    comment: bytes = b""
    texts: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Photo:
    """pixels: upright, see `quantsr.pixels`."""

    pixels: Pixels
    metadata: Metadata = Metadata()
