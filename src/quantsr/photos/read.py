"""Reading a photograph with everything in it.

Pillow decodes. It holds 16 bits of gray only; of colour it keeps the upper byte of each sample. So 16-bit colour is
decoded twice with the byte order told one way and the other, which gives upper and lower bytes. That keeps Pillow's
checks of damaged files, and costs no dependency.
"""

import io
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import TiffImageFile

from quantsr.photos import avif, png_metadata
from quantsr.photos import exif as exif_block
from quantsr.photos import iptc as iptc_records
from quantsr.photos.formats import READERS, advice_on_films
from quantsr.photos.photo import Metadata, Photo, PhotoError
from quantsr.photos.source import open_file
from quantsr.pixels import Pixels

PathLike = str | os.PathLike[str]

DEEP_COLOUR = re.compile(r"(RGB|RGBA|RGBX|RGBa);16([BLN])")
DEEP_GRAY = ("I;16", "I;16B", "I;16L", "I;16N")
# Pillow's mode -> the mode of the pixels that come back; with a transparent colour, that mode and alpha
MODES = {
    "1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA",
    "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "RGB",
}  # fmt: skip
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
BITS, PHOTOMETRIC = 258, 262  # TIFF tags
MOST_DPI = 2**31 / 40  # PNG and BMP count pixels to the metre in 32 bits
JPEG_PIXELS_OF_A_BYTE = 512  # a block of 8x8 pixels takes a bit at least


@dataclass(frozen=True)
class Facts:
    """What the head of a file tells, before its pixels are decoded. Width and height are of the upright picture."""

    width: int
    height: int
    channels: int
    bits: int  # of a sample: 8 or 16


def probe(path: PathLike) -> Facts:
    """Raises PhotoError as `read` does, except for damage behind the head."""
    with _opened(path) as image:
        size = image.size
        told = isinstance(image, TiffImageFile) and exif_block.ORIENTATION in image.tag_v2  # the upright size
        if not told and _orientation(_metadata(path, image)) > 4:
            size = size[::-1]
        return Facts(*size, *_kind(path, image))


def read(path: PathLike) -> Photo:
    """The photograph, turned upright; 8 or 16 bits, gray or colour, with or without alpha, as the file has it.

    Palettes become RGB, one bit becomes 8-bit gray, CMYK becomes sRGB by its profile. Raises PhotoError for a file
    that is missing, damaged, no image of a known format, animated, or of a kind that would lose something.
    """
    with _opened(path) as image:
        _kind(path, image)
        metadata = _metadata(path, image)
        turn = 1 if image.format == "TIFF" else _orientation(metadata)  # Pillow turns TIFFs while loading
        return Photo(np.ascontiguousarray(_turned(_decoded(path, image), turn)), metadata)


@contextmanager
def _opened(path: PathLike) -> Iterator[Image.Image]:
    """The file's head; whatever is wrong with the file becomes a PhotoError."""
    try:
        with open_file(path) as file, Image.open(file, formats=READERS) as image:
            yield image
    except FileNotFoundError:
        raise PhotoError(f"{os.fspath(path)}: no such file") from None
    except IsADirectoryError:
        raise PhotoError(f"{os.fspath(path)}: is a folder, wanted an image file") from None
    except (PhotoError, PermissionError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{os.fspath(path)}: {_too_large(error)}; cut it into parts first") from error
    except UnidentifiedImageError as error:
        wanted = f"{', '.join(READERS[:-1])} or {READERS[-1]}"
        told = f"not a readable image; wanted a whole {wanted}{advice_on_films(Path(path))}"
        raise PhotoError(f"{os.fspath(path)}: {told}") from error
    except Exception as error:  # decoders fail in many ways on damaged files
        raise PhotoError(f"{os.fspath(path)}: not a readable image ({error or type(error).__name__})") from error


def _too_large(error: Image.DecompressionBombError) -> str:
    """Nothing but the words of Pillow's error has the numbers: pixels of the file, and how many are read."""
    numbers = [int(number) / 1e6 for number in re.findall(r"\d+", str(error))]
    if len(numbers) != 2:
        return f"got too large a picture ({error})"
    return f"got {math.ceil(numbers[0])} megapixels, wanted at most {int(numbers[1])}"


def _kind(path: PathLike, image: Image.Image) -> tuple[int, int]:
    """Channels and bits that the pixels will have. Raises PhotoError for what would lose something."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's MPO has previews behind the picture
        raise PhotoError(f"{os.fspath(path)}: got several frames or pages, wanted one image; split it first")
    if isinstance(image, GifImageFile) and image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise PhotoError(f"{os.fspath(path)}: got a frame that covers a part of a {image.width}x{image.height} picture")
    _refuse_lying_jpeg(path, image)
    if image.format == "AVIF":
        avif.check_sizes(path)
    deep = _deep(image)
    mode = deep or MODES.get(image.mode)
    if mode is None:
        wanted = "8- or 16-bit gray or RGB, palette, 1-bit or CMYK"
        raise PhotoError(f"{os.fspath(path)}: got pixels of mode {image.mode}, wanted {wanted}; convert it first")
    if "transparency" in image.info:
        mode = WITH_ALPHA.get(mode, mode)
    return len(mode), 16 if deep else 8


def _refuse_lying_jpeg(path: PathLike, image: Image.Image) -> None:
    """Where data end too early, the decoder fills up with gray and calls it a picture."""
    size = os.path.getsize(path)
    if image.format in ("JPEG", "MPO") and image.width * image.height > JPEG_PIXELS_OF_A_BYTE * size:
        raise PhotoError(f"{os.fspath(path)}: got {size} bytes for {image.width}x{image.height} pixels; it is damaged")


def _deep(image: Image.Image) -> str | None:
    """The mode of the pixels if samples have 16 bits. Asks the tiles, as Pillow's mode does not tell."""
    if image.mode in DEEP_GRAY:
        return "L"
    modes = {_raw_mode(tile) for tile in getattr(image, "tile", [])}
    if modes == {"LA;16B"}:
        return "LA"
    matches = [DEEP_COLOUR.fullmatch(mode) for mode in modes]
    if len(matches) == 1 and matches[0]:
        return "RGBA" if matches[0][1] in ("RGBA", "RGBa") else "RGB"
    bits = 16 if any(";16" in mode for mode in modes - {"BGR;16"}) else 8  # that one has 16 bits a pixel
    if image.mode in MODES:  # the modes of planes of a TIFF do not tell
        bits = max((bits, *getattr(image, "tag_v2", {}).get(BITS, ())))
    if bits > 8:
        raise ValueError(f"{bits}-bit pixels stored as {', '.join(sorted(modes))}; convert it first")
    return None


def _raw_mode(tile: Any) -> str:
    args = tile.args
    return str(args[0] if isinstance(args, tuple) and args else args)


def _decoded(path: PathLike, image: Image.Image) -> Pixels:
    deep = _deep(image)
    if deep is None:
        return _shallow(path, image)
    key = image.info.get("transparency")
    if image.mode in DEEP_GRAY:
        pixels = _gray16(image)
    else:
        pixels = _la16(image) if deep == "LA" else _colour16(path, image)
    if key is None or deep in ("LA", "RGBA"):
        return pixels
    colour = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha = np.where((colour == key).all(axis=-1), 0, 65535).astype(np.uint16)
    return np.concatenate([colour, alpha[..., None]], axis=-1)


def _shallow(path: PathLike, image: Image.Image) -> Pixels:
    mode = MODES[image.mode]
    icc = image.info.get("icc_profile")
    if "transparency" in image.info:
        mode = WITH_ALPHA.get(mode, mode)
    key = _scaled_key(image)
    image.load()
    if key is not None:
        image.info["transparency"] = key
    if image.mode == "CMYK" and icc:
        return np.array(_without_inks(path, image, icc))
    return np.array(image.convert(mode))


def _without_inks(path: PathLike, image: Image.Image, icc: bytes) -> Image.Image:
    try:
        inks, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, inks, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        wanted = "wanted one of the inks; convert it to RGB first"
        raise PhotoError(f"{os.fspath(path)}: got CMYK pixels with a profile of something else, {wanted}") from error
    assert converted is not None
    return converted


def _scaled_key(image: Image.Image) -> int | None:
    """The transparent gray of 2 or 4 bits as a gray of 8, as which Pillow decodes the pixels; else None."""
    key = image.info.get("transparency")
    most = {"L;2": 3, "L;4": 15}.get(next(map(_raw_mode, getattr(image, "tile", [])), ""))
    return (key & most) * 255 // most if most and isinstance(key, int) else None


def _gray16(image: Image.Image) -> Pixels:
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(BITS, (16,))[0], tags.get(PHOTOMETRIC, 1)
    pixels = np.array(image).astype(np.uint16)
    if bits == 12:
        pixels = (pixels.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    return 65535 - pixels if photometric == 0 else pixels  # 0: white is zero


def _la16(image: Image.Image) -> Pixels:
    """Four bytes a pixel, so as if it were RGBA."""
    _set_raw_mode(image, "RGBA")
    return np.array(image).view(">u2").astype(np.uint16)


def _colour16(path: PathLike, image: Image.Image) -> Pixels:
    assert isinstance(image, ImageFile.ImageFile)
    match = DEEP_COLOUR.fullmatch(_raw_mode(image.tile[0]))
    assert match is not None
    order = match[2] if match[2] != "N" else "L" if sys.byteorder == "little" else "B"
    layout = "RGBA" if match[1] == "RGBa" else match[1]
    with open_file(path) as file, Image.open(file, formats=READERS) as again:
        _set_raw_mode(again, f"{layout};16{'B' if order == 'L' else 'L'}")
        lower = np.array(again)
    _set_raw_mode(image, f"{layout};16{order}")
    pixels = np.array(image).astype(np.uint16) << 8 | lower
    if match[1] == "RGBa":
        alpha = np.maximum(pixels[..., 3:], 1).astype(np.uint64)
        pixels[..., :3] = np.minimum((pixels[..., :3] * np.uint64(65535) + alpha // 2) // alpha, 65535)
    return pixels


def _set_raw_mode(image: Image.Image, mode: str) -> None:
    assert isinstance(image, ImageFile.ImageFile)
    tiles = []
    for tile in image.tile:
        args = (mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode
        tiles.append(tile._replace(args=args))
    image.tile = tiles


def _metadata(path: PathLike, image: Image.Image) -> Metadata:
    """Decodes no pixels."""
    info = image.info
    icc = b"" if image.mode == "CMYK" else info.get("icc_profile") or b""  # that one describes inks
    if image.format == "PNG":
        return replace(png_metadata.read(path), icc=icc, dpi=_dpi(image))
    if image.format == "TIFF":
        exif, iptc = _exif_of_tiff(image), iptc_records.of_tiff(image)
    else:
        exif = bytes(info.get("exif") or b"").removeprefix(exif_block.PREFIX)
        iptc = iptc_records.of_jpeg(image)
    xmp, comment = info.get("xmp") or b"", info.get("comment") or b""
    return Metadata(
        exif=exif,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
        icc=icc,
        dpi=_dpi(image),
        iptc=iptc,
        comment=comment if isinstance(comment, bytes) else b"",  # Pillow may hold what is none under that name
    )


def _exif_of_tiff(image: Image.Image) -> bytes:
    try:
        return exif_block.of_tiff(image.getexif())
    except Exception:  # Pillow fails in many ways on damaged ones
        return b""


def _orientation(metadata: Metadata) -> int:
    return exif_block.orientation(metadata.exif, metadata.xmp)


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    return (float(dpi[0]), float(dpi[1])) if dpi and all(0 < float(value) < MOST_DPI for value in dpi) else None


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """The stored rows and columns as the EXIF orientation says that they are to be seen."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
