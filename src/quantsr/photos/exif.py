"""EXIF and XMP of a result, by changing only the bytes that must change: all else, maker notes too, stays as it was.

An EXIF block is a small TIFF file: a header of byte order and offset of the first directory (IFD); a directory is
its count, 12 bytes an entry (tag, type, count, value or offset), and the offset of the next. The second directory
describes the thumbnail. (CIPA DC-008, section 4.6)
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

PREFIX = b"Exif\0\0"
SHORT, LONG = 3, 4
ORIENTATION, WIDTH, HEIGHT = 0x0112, 0x0100, 0x0101
EXIF_POINTER, GPS_POINTER = 0x8769, 0x8825
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
THUMBNAIL, THUMBNAIL_BYTES = 0x0201, 0x0202
# What a TIFF's first directory tells of the photograph; the other tags there describe how its pixels are stored.
DESCRIPTIVE = (
    0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298,
    0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, EXIF_POINTER, GPS_POINTER,
)  # fmt: skip


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """1 to 8, how to turn the stored pixels; EXIF decides, then XMP; 1 if nothing is said."""
    block = _Block(exif)
    found = [entry for entry in block.entries(block.first) if entry[0] == ORIENTATION and _is_number(entry)]
    values = [block.value(entry) for entry in found]
    values += map(int, re.findall(rb"tiff:Orientation(?:=[\"']|>)(\d)", xmp))
    return values[0] if values and values[0] in range(1, 9) else 1


def for_result(exif: bytes, width: int, height: int) -> bytes:
    """The block of an upright result of this size: orientation 1, sizes where there were sizes, no thumbnail."""
    block = _Block(exif)
    wanted = {ORIENTATION: 1, WIDTH: width, HEIGHT: height, PIXEL_WIDTH: width, PIXEL_HEIGHT: height}
    outer = list(block.entries(block.first))
    pointer = next((entry for entry in outer if entry[0] == EXIF_POINTER), None)
    for entry in [*outer, *(block.entries(block.value(pointer)) if pointer else ())]:
        block.set(entry, wanted)
    block.drop_thumbnail()
    return bytes(block.data)


def for_avif(exif: bytes) -> bytes:
    """The block of an upright result without its orientation: Pillow would write a block with one anew."""
    block = _Block(exif)
    block.drop(ORIENTATION)
    try:
        Image.Exif().load(bytes(block.data))
    except Exception:  # it fails in many ways on damaged ones
        return b""
    return bytes(block.data)


def for_tiff(exif: bytes) -> bytes:
    """The block, or nothing if it cannot become directories of a TIFF."""
    block = Image.Exif()
    try:
        block.load(exif)
        of_tiff(block)
    except Exception:  # as above
        return b""
    return exif


def xmp_for_result(xmp: bytes, width: int, height: int) -> bytes:
    """The same in an XMP packet, where values are attributes or elements."""
    wanted = {b"exif:PixelXDimension": width, b"exif:PixelYDimension": height, b"tiff:Orientation": 1}
    wanted |= {b"tiff:ImageWidth": width, b"tiff:ImageLength": height}
    for name, value in wanted.items():
        xmp = re.sub(b"(" + name + rb"(?:=[\"']|>))\d+", rb"\g<1>%d" % value, xmp)
    xmp = re.sub(rb"\s?xmpNote:HasExtendedXMP=([\"'])[0-9A-F]{32}\1", b"", xmp)  # which stays behind
    return _without_thumbnails(xmp)


def _without_thumbnails(xmp: bytes) -> bytes:
    opening, closing = b"<xmp:Thumbnails", b"</xmp:Thumbnails>"
    kept, at = [], 0
    while (start := xmp.find(opening, at)) >= 0 and (end := xmp.find(closing, start)) >= 0:
        kept.append(xmp[at:start])
        at = end + len(closing)
    return b"".join([*kept, xmp[at:]])


def of_tiff(exif: Image.Exif) -> bytes:
    """The EXIF block of a TIFF file, whose directories are the file's own."""
    block = Image.Exif()
    for tag, value in descriptive(exif).items():
        block[tag] = value
    return block.tobytes().removeprefix(PREFIX) if len(block) else b""


def descriptive(exif: Image.Exif) -> dict[int, Any]:
    """Tags for a TIFF's first directory; a dict where the value is a directory. Raises what Pillow does on damage."""
    pointers = (EXIF_POINTER, GPS_POINTER)
    tags = {tag: exif.get_ifd(tag) if tag in pointers else exif[tag] for tag in DESCRIPTIVE if tag in exif}
    if EXIF_POINTER in tags:  # a pointer in a pointed-to directory would be written as a number
        tags[EXIF_POINTER] = {k: v for k, v in tags[EXIF_POINTER].items() if k != ExifTags.IFD.Interop}
    return {tag: _with_letters(value) for tag, value in tags.items() if value != {}}


class _Latin(str):
    """A text as Pillow reads it, each byte a letter. It would write those beyond ASCII as question marks."""

    def encode(self, *_: object, **__: object) -> bytes:
        return super().encode("latin-1")


def _with_letters(value: Any) -> Any:
    if isinstance(value, dict):
        return {tag: _with_letters(inner) for tag, inner in value.items()}
    return _Latin(value) if isinstance(value, str) else value


Entry = tuple[int, int, int, int]  # tag, type, count, where the value lies


def _is_number(entry: Entry) -> bool:
    return entry[1] in (SHORT, LONG) and entry[2] == 1


class _Block:
    """A damaged block has no entries where it cannot be followed."""

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self.order = "<" if exif[:2] == b"II" else ">"
        self.first = self._number(4) if exif[:4] in (b"II*\0", b"MM\0*") else 0

    def _number(self, at: int, size: str = "I") -> int:
        try:
            return int(struct.unpack_from(self.order + size, self.data, at)[0])
        except struct.error:
            return 0

    def entries(self, directory: int) -> Iterator[Entry]:
        if directory == 0:
            return
        for index in range(self._number(directory, "H")):
            at = directory + 2 + 12 * index
            if at + 12 > len(self.data):
                return
            yield self._number(at, "H"), self._number(at + 2, "H"), self._number(at + 4), at + 8

    def value(self, entry: Entry) -> int:
        return self._number(entry[3], "H" if entry[1] == SHORT else "I")

    def set(self, entry: Entry, wanted: dict[int, int]) -> None:
        tag, kind, _, at = entry
        if tag not in wanted or not _is_number(entry):
            return
        if kind == SHORT and wanted[tag] > 0xFFFF:
            kind = LONG
            struct.pack_into(self.order + "H", self.data, at - 6, LONG)
        struct.pack_into(self.order + ("H" if kind == SHORT else "I"), self.data, at, wanted[tag])

    def drop(self, tag: int) -> None:
        """Of the first directory; the entries behind it and the link to the second move up."""
        count = self._number(self.first, "H")
        end = self.first + 2 + 12 * count + 4
        for entry in self.entries(self.first):
            start = entry[3] - 8
            if entry[0] == tag and end <= len(self.data):
                self.data[start:end] = self.data[start + 12 : end] + bytes(12)
                struct.pack_into(self.order + "H", self.data, self.first, count - 1)
                return

    def drop_thumbnail(self) -> None:
        link = self.first + 2 + 12 * self._number(self.first, "H")  # to the second directory
        second = self._number(link)
        if self.first == 0 or second == 0:
            return
        where = {entry[0]: self.value(entry) for entry in self.entries(second)}
        start = where.get(THUMBNAIL, 0)
        end = min(start + where.get(THUMBNAIL_BYTES, 0), len(self.data))
        struct.pack_into(self.order + "I", self.data, link, 0)
        if 8 <= start < end:
            self.data[start:end] = bytes(end - start)
            if end == len(self.data):
                del self.data[start:]
