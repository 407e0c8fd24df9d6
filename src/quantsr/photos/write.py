"""Writing a photograph with everything that its format can hold, and refusing before work is done what it cannot."""

import io
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from quantsr import pixels
from quantsr.files import write_atomically
from quantsr.photos import exif, iptc, png, tiff
from quantsr.photos.formats import FORMATS, Format, format_of
from quantsr.photos.photo import Metadata, Photo, PhotoError
from quantsr.pixels import Pixels

LARGE_PIXELS = 4_000_000  # above, a PNG is written in bands, faster and with little memory
EXIF_FOR = {"AVIF": exif.for_avif, "TIFF": exif.for_tiff}  # the others keep it as bytes, damaged or not
MOST_JPEG_DPI = 65_535
MARKER_BYTES = 65_533  # of a JPEG segment
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP_HEADER = b"XML:com.adobe.xmp\0\0\0\0\0"


def check_fits(path: Path, photo: Photo, upscale: int) -> Format:
    """The format of `path`, if it can hold the result of `photo`. Raises PhotoError.

    Fully opaque alpha fits everywhere (it is left out), 16 bits too (they are rounded to 8).
    """
    kind = format_of(path)
    if kind is None:
        known = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
        raise PhotoError(f"{path}: got suffix {path.suffix!r}, wanted one of {known}")
    longest = max(photo.pixels.shape[:2]) * upscale
    if longest > kind.longest:
        raise PhotoError(f"{path}: the result has a side of {longest} pixels, {kind.name} holds {kind.longest}")
    if not kind.alpha and _see_through(photo.pixels):
        raise PhotoError(f"{path}: {kind.name} holds no transparency; choose the format PNG, WebP, TIFF or AVIF")
    gray_profile = photo.metadata.icc[16:20] == b"GRAY"
    gray = kind.gray and not (kind.name == "AVIF" and pixels.has_alpha(photo.pixels))
    if gray_profile and kind.metadata and not gray:
        raise PhotoError(f"{path}: {kind.name} holds no gray profile; choose --format png, tiff or jpg, or --strip")
    if kind.name == "JPEG":
        _check_segments(path, photo.metadata)
    return kind


def _check_segments(path: Path, metadata: Metadata) -> None:
    taken = {
        "EXIF": len(exif.PREFIX) + len(metadata.exif),
        "XMP": len(XMP_HEADER) + len(metadata.xmp),
        "comment": len(metadata.comment),
    }
    for name, length in taken.items():
        if length > MARKER_BYTES:
            raise PhotoError(f"{path}: JPEG holds 64 KiB of {name}, got {length} bytes; use --strip or --format png")


def write(
    path: str | os.PathLike[str],
    photo: Photo,
    *,
    quality: int | None = None,
    beside: Path | None = None,
    new: bool = False,
    proceed: Callable[[], object] | None = None,
) -> None:
    """Writes beside the target, syncs, renames. The metadata's sizes and orientation are made those of the pixels.

    quality: 1 to 100 for JPEG, WebP and AVIF. beside: name of the temporary file. new: raises FileExistsError if
    something is at `path` by then. proceed: called before each part of the file is written, what it raises ends the
    work; PNG, JPEG and BMP come in parts of 64 KiB to 1 MiB, the others are compressed before the first. Raises
    PhotoError for what the format cannot hold, and OSError when the disk refuses. However it ends, the old file, if
    any, is whole.
    """
    path = Path(path)
    kind = check_fits(path, photo, 1)
    height, width = photo.pixels.shape[:2]

    def encode_while_asked(file: BinaryIO) -> None:
        asking = file if proceed is None else cast(BinaryIO, _Asking(file, proceed))
        encode(asking, kind, photo, quality, large=height * width > LARGE_PIXELS)

    try:
        write_atomically(path, encode_while_asked, beside, new=new)
    except (ValueError, OverflowError, struct.error) as error:  # the last two of Pillow
        raise PhotoError(f"{path}: {error}") from error


def encode(file: BinaryIO, kind: Format, photo: Photo, quality: int | None = None, *, large: bool = False) -> None:
    """What `write` puts into the file. large: as it does of a picture above `LARGE_PIXELS`.

    Raises ValueError for a quality out of range, also where the format has none.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"got quality {quality}, wanted 1 to 100")
    image = _fitting(photo.pixels, kind)
    height, width = image.shape[:2]
    old = photo.metadata
    block = exif.for_result(old.exif, width, height)
    if kind.name in EXIF_FOR:
        block = EXIF_FOR[kind.name](block)
    metadata = replace(old, exif=block, xmp=exif.xmp_for_result(old.xmp, width, height))
    if kind.name == "TIFF":
        tiff.write(file, image, metadata)
    elif image.dtype == np.uint16 or (kind.name == "PNG" and large):
        png.write(file, image, _shell(metadata))
    else:
        options = kind.options | ({"quality": kind.quality if quality is None else quality} if kind.quality else {})
        Image.fromarray(image).save(file, format=kind.name, **options, **_options(kind, metadata))


class _Asking:
    """A file that calls `proceed` before each write. It has no descriptor, else encoders would write past it."""

    def __init__(self, file: BinaryIO, proceed: Callable[[], object]) -> None:
        self._file, self._proceed = file, proceed

    def write(self, data: bytes) -> int:
        self._proceed()
        return self._file.write(data)


def _see_through(image: Pixels) -> bool:
    return pixels.has_alpha(image) and bool((image[..., -1] != pixels.levels(image)).any())


def _fitting(image: Pixels, kind: Format) -> Pixels:
    """The pixels as the format takes them."""
    if pixels.has_alpha(image) and not kind.alpha:
        image = image[..., :-1]
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype == np.uint16 and not kind.deep:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(image)


def _options(kind: Format, metadata: Metadata) -> dict[str, Any]:
    """What Pillow's encoder is told of the metadata; of a profile nothing rather than that there is none."""
    options: dict[str, Any] = {"dpi": metadata.dpi} if metadata.dpi else {}
    if not kind.metadata:
        return options
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        options["exif"] = exif.PREFIX + metadata.exif
    if kind.name == "PNG":
        options["pnginfo"] = _chunks(metadata)
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if kind.name == "JPEG":
        options["comment"] = metadata.comment
        options["extra"] = iptc.segments(metadata.iptc)
        if metadata.dpi and max(metadata.dpi) > MOST_JPEG_DPI:
            del options["dpi"]
    return options


def _chunks(metadata: Metadata) -> PngInfo:
    chunks = PngInfo()
    if metadata.xmp:
        chunks.add(b"iTXt", PNG_XMP_HEADER + metadata.xmp)
    if metadata.comment:
        chunks.add_text("Comment", _words(metadata.comment))
    for name, data in metadata.texts:
        chunks.add(name, data)
    return chunks


def _words(comment: bytes) -> str:
    """No format tells how a comment's letters are coded."""
    try:
        return comment.decode().replace("\0", "")
    except UnicodeDecodeError:
        return comment.decode("latin-1").replace("\0", "")


def _shell(metadata: Metadata) -> bytes:
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, format="PNG", **_options(FORMATS["png"], metadata))
    return file.getvalue()
