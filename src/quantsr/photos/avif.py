"""Whether the sizes that an AVIF's container tells are those of its coded pictures.

The decoder trusts the container and stretches a coded picture of 20x26 pixels to any size that is told there. So each
coded picture of the file (colour, alpha, tiles of a grid) is held against its own head, without being decoded.
(ISO 14496-12 section 8.11 for boxes, ISO 23008-12 section 6.5.3 for `ispe`, AV1 specification sections 5.3 to 5.5.)
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from quantsr.photos.source import open_file

MOST_BYTES = 16 << 20  # of the box with all metadata
MOST_BOXES = 1000
HEAD_BYTES = 1024  # of a coded picture, in which its sequence header lies
SEQUENCE_HEADER = 1  # of the kinds of AV1's units


def check_sizes(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a size that is not that of the coded picture, and for what cannot be followed."""
    with open_file(path) as file:
        meta = _meta(file)
        boxes = dict(_boxes(meta[4:]))
        sizes = _told_sizes(boxes[b"iprp"])
        places = dict(_places(boxes[b"iloc"]))
        for item in _coded_items(boxes[b"iinf"]):
            in_meta, extents = places[item]
            beginning = _content(file, boxes.get(b"idat", b"") if in_meta else None, extents)
            got, wanted = sizes[item], _coded_size(beginning)
            if got != wanted:
                told, coded = (f"{width}x{height}" for width, height in (got, wanted))
                raise ValueError(f"its head tells of {told} pixels, its picture has {coded}")


def _meta(file: BinaryIO) -> bytes:
    """The content of the box `meta`. A film, which would have sizes of its own, is refused."""
    found: bytes | None = None
    at, end = 0, file.seek(0, os.SEEK_END)
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length, start = struct.unpack(">I", head[:4])[0] or end - at, 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        if length < start:
            break
        if head[4:8] == b"moov":
            raise ValueError("a sequence of pictures, wanted one")
        if head[4:8] == b"meta" and found is None:
            if length > MOST_BYTES:
                raise ValueError(f"{length} bytes of metadata")
            file.seek(at + start)
            found = file.read(length - start)
        at += length
    if found is None:
        raise ValueError("no picture in it")
    return found


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each."""
    at = 0
    while at + 8 <= len(data):
        length = struct.unpack_from(">I", data, at)[0] or len(data) - at
        if not 8 <= length <= len(data) - at:
            raise ValueError(f"a box of {length} bytes where {len(data) - at} are left")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


class _Reader:
    """Numbers of whole bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, size: int) -> int:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("its metadata end too early")
        self._at += size
        return int.from_bytes(part, "big")


def _coded_items(iinf: bytes) -> Iterator[int]:
    """Numbers of the items that are AV1 pictures."""
    start = 6 if iinf[0] == 0 else 8
    for name, content in _boxes(iinf[start:]):
        wide = content[0] == 3
        if name == b"infe" and content[0] >= 2:
            kind = content[10:14] if wide else content[8:12]
            if kind == b"av01":
                yield int.from_bytes(content[4:8] if wide else content[4:6], "big")


def _told_sizes(iprp: bytes) -> dict[int, tuple[int, int]]:
    """Width and height by item."""
    parts = list(_boxes(iprp))
    properties = [box for name, content in parts if name == b"ipco" for box in _boxes(content)]
    sizes: dict[int, tuple[int, int]] = {}
    for content in (content for name, content in parts if name == b"ipma"):
        version, flags = content[0], content[3]
        reader = _Reader(content[4:])
        for _ in range(reader.number(4)):
            item = reader.number(4 if version else 2)
            for _ in range(reader.number(1)):
                index = reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F
                name, data = properties[index - 1] if index else (b"", b"")
                if name == b"ispe":
                    sizes[item] = struct.unpack(">II", data[4:12])
    return sizes


def _places(iloc: bytes) -> Iterator[tuple[int, tuple[bool, list[tuple[int, int]]]]]:
    """By item: whether it lies within the metadata, and first byte and length of its pieces (0: to the end)."""
    version, reader = iloc[0], _Reader(iloc[4:])
    sizes = reader.number(2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(reader.number(4 if version == 2 else 2)):
        item = reader.number(4 if version == 2 else 2)
        method = reader.number(2) & 15 if version else 0
        reader.number(2)  # in which file; the decoder takes this one only
        base = reader.number(base_bytes)
        extents = []
        for _ in range(reader.number(2)):
            reader.number(index_bytes if version else 0)
            extents.append((base + reader.number(offset_bytes), reader.number(length_bytes)))
        yield item, (method == 1, extents)


def _content(file: BinaryIO, idat: bytes | None, extents: list[tuple[int, int]]) -> bytes:
    """The beginning of an item's bytes. idat: where they lie, if not in the file."""
    content = b""
    for first, length in extents:
        size = min(length or HEAD_BYTES, HEAD_BYTES - len(content))
        if idat is None:
            file.seek(first)
            content += file.read(size)
        else:
            content += idat[first : first + size]
    return content


def _coded_size(units: bytes) -> tuple[int, int]:
    """Width and height in the sequence header of an AV1 picture."""
    at = 0
    while at < len(units):
        kind, extended, sized = units[at] >> 3 & 15, units[at] & 4, units[at] & 2
        at += 2 if extended else 1
        length = len(units) - at
        if sized:
            length, at = _leb128(units, at)
        if kind == SEQUENCE_HEADER:
            return _size_in_sequence_header(_Bits(units[at : at + length]))
        at += length
    raise ValueError("its picture has no head")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first; and where the next byte is."""
    value = 0
    for place in range(8):
        value |= (data[at + place] & 0x7F) << 7 * place
        if not data[at + place] & 0x80:
            break
    return value, at + place + 1


class _Bits:
    """Numbers of some bits, highest first."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the head of its picture ends too early")
        return self._number >> self._left & (1 << count) - 1


def _size_in_sequence_header(bits: _Bits) -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced head
        bits.take(5)
    else:
        _pass_over_timing(bits)
    widths = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(widths[0]) + 1, bits.take(widths[1]) + 1


def _pass_over_timing(bits: _Bits) -> None:
    """Timing and operating points, by the names of section 5.5.1."""
    delay_bits = 0
    if bits.take(1):  # timing_info_present_flag
        bits.take(64)
        if bits.take(1):  # equal_picture_interval
            zeros = 0
            while not bits.take(1):
                zeros += 1
            bits.take(zeros)
        if bits.take(1):  # decoder_model_info_present_flag
            delay_bits = bits.take(5) + 1
            bits.take(42)
    initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)  # tier
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if initial_delay and bits.take(1):
            bits.take(4)
