"""TIFF of 8 or 16 bits a sample: deflated strips of differences along the rows (TIFF 6.0; Adobe's deflate, 2002).

Pillow cannot write 16-bit colour; it still writes the directory of tags, and turns an EXIF block into one.
"""

import io
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from quantsr.photos import exif as exif_block
from quantsr.photos import iptc
from quantsr.photos.photo import Metadata
from quantsr.pixels import Pixels, has_alpha, is_gray

STRIP_BYTES = 1 << 20
LEVEL = 5  # zlib's
DEFLATE, DIFFERENCES, STRAIGHT_ALPHA = 8, 2, 2
LARGEST = 2**32 - 2**20  # bytes; offsets have 32 bits


def write(file: BinaryIO, pixels: Pixels, metadata: Metadata) -> None:
    """uint8 or uint16 in any layout of `quantsr.pixels`. Raises ValueError above 4 GiB."""
    height = len(pixels)
    rows = max(1, STRIP_BYTES // (pixels.nbytes // height))
    strips = [_strip(pixels[top : top + rows]) for top in range(0, height, rows)]
    if sum(map(len, strips)) > LARGEST:
        raise ValueError("the result has more than 4 GiB, which TIFF cannot hold; choose another --format")
    directory = _directory(pixels, metadata)
    directory[TiffImagePlugin.ROWSPERSTRIP] = rows
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(map(len, strips))
    directory[TiffImagePlugin.STRIPOFFSETS] = tuple(int(end) for end in np.cumsum([0, *map(len, strips[:-1])]))
    for tag in (TiffImagePlugin.STRIPBYTECOUNTS, TiffImagePlugin.STRIPOFFSETS):
        directory.tagtype[tag] = TiffTags.LONG
    head = io.BytesIO()
    directory.save(head)  # adds its own length to the offsets
    file.write(head.getvalue())
    for strip in strips:
        file.write(strip)


def _strip(rows: Pixels) -> bytes:
    samples = (rows if rows.ndim == 3 else rows[..., None]).astype(rows.dtype.newbyteorder("<"))
    samples[:, 1:] -= samples[:, :-1].copy()
    return zlib.compress(samples.tobytes(), LEVEL)


def _directory(pixels: Pixels, metadata: Metadata) -> TiffImagePlugin.ImageFileDirectory_v2:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if metadata.exif:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag, value in exif_block.descriptive(exif).items():
            directory[tag] = value
    directory[TiffImagePlugin.IMAGEWIDTH] = pixels.shape[1]
    directory[TiffImagePlugin.IMAGELENGTH] = pixels.shape[0]
    directory[TiffImagePlugin.BITSPERSAMPLE] = (8 * pixels.itemsize,) * channels
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if is_gray(pixels) else 2
    directory[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
    directory[TiffImagePlugin.COMPRESSION] = DEFLATE
    directory[TiffImagePlugin.PREDICTOR] = DIFFERENCES
    if has_alpha(pixels):
        directory[TiffImagePlugin.EXTRASAMPLES] = STRAIGHT_ALPHA
    if metadata.dpi:
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = metadata.dpi
    blocks = {TiffImagePlugin.ICCPROFILE: metadata.icc, TiffImagePlugin.XMP: metadata.xmp, iptc.TAG: metadata.iptc}
    for tag, data in blocks.items():
        if data:
            directory[tag] = data
    return directory
