"""EXIF, XMP and texts of a PNG, wherever they lie: many programs write them behind the pixels, passed over here.

Pillow tells what lies behind only after it has decoded the pixels. (W3C PNG, third edition, sections 5.3 and 11.3; a
"Raw profile" is ImageMagick's way of EXIF or XMP in a text chunk: a line of its name, one of its length, lines of hex
digits. "APP1" is the segment of a JPEG, which holds the one or the other.)
"""

import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from quantsr.photos.exif import PREFIX
from quantsr.photos.photo import Metadata, PhotoError
from quantsr.photos.source import open_file

SIGNATURE_BYTES = 8
XMP, XMP_PREFIX = b"XML:com.adobe.xmp\0", b"http://ns.adobe.com/xap/1.0/\0"
RAW_EXIF, RAW_XMP, APP1 = (b"Raw profile type %s\0" % kind for kind in (b"exif", b"xmp", b"APP1"))
RAW = (RAW_EXIF, RAW_XMP, APP1)
KEYS = {b"iTXt": (XMP,), b"tEXt": RAW, b"zTXt": RAW}
TEXTS = (b"iTXt", b"tEXt", b"zTXt")
HDR = {b"\x10": "PQ", b"\x12": "HLG"}  # transfer functions of cICP, numbered by ITU-T H.273
MOST_BYTES = 16 << 20  # of a chunk, compressed or not, and of all texts
MOST_CHUNKS = 1_000_000  # 8 GB of pixels, as they are usually cut up


def read(path: str | os.PathLike[str]) -> Metadata:
    """EXIF and XMP, empty where there is none or it is damaged, and all other texts as they are.

    Raises ValueError where they are too large; OSError; and PhotoError if the pixels are HDR: a result that does not
    say so would look wrong.
    """
    found: dict[bytes, bytes] = {}  # by where it lies; the first decides, so that little is ever inflated
    texts, kept = [], 0
    with open_file(path) as file:
        for name, data in _chunks(file):
            if name == b"cICP" and data[1:2] in HDR:
                raise PhotoError(f"{os.fspath(path)}: got HDR pixels ({HDR[data[1:2]]}), wanted SDR; convert it first")
            place = _place(name, data)
            if place:
                if place not in found:
                    found[place] = _block(name, data)
            elif name in TEXTS:
                texts.append((name, data))
                kept += len(data)
                if kept > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES} bytes of text")
    segment = found.get(APP1, b"")
    segment_is_xmp = segment.startswith(XMP_PREFIX)
    exif = found.get(b"eXIf") or found.get(RAW_EXIF) or (b"" if segment_is_xmp else segment)
    xmp = found.get(XMP) or found.get(RAW_XMP) or (segment if segment_is_xmp else b"")
    return Metadata(exif=exif.removeprefix(PREFIX), xmp=xmp.removeprefix(XMP_PREFIX), texts=tuple(texts))


def _place(name: bytes, data: bytes) -> bytes:
    """Where EXIF or XMP lies: the name of the chunk or the key of the text, with the zero behind it; else nothing."""
    if name == b"eXIf":
        return name
    key = data[: data.find(b"\0") + 1]
    return key if key in KEYS.get(name, ()) else b""


def _block(name: bytes, data: bytes) -> bytes:
    if name == b"eXIf":
        return data
    _, _, text = data.partition(b"\0")
    if name == b"iTXt":
        return _international(text)
    return _raw_profile(_inflated(text[1:]) if name == b"zTXt" else text)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of each chunk that may hold metadata. Ends where the file does; decoding tells of the damage."""
    at = SIGNATURE_BYTES
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = struct.unpack(">I", head[:4])[0]
        if head[4:] in (b"cICP", b"eXIf", *TEXTS):
            if length > MOST_BYTES:
                raise ValueError(f"{length} bytes of {head[4:].decode()}")
            yield head[4:], file.read(length)
        at += 12 + length


def _international(text: bytes) -> bytes:
    """The text behind the key of an iTXt chunk: two bytes on compression, language, its translated key, text."""
    _, _, words = text[2:].partition(b"\0")
    _, _, words = words.partition(b"\0")
    return _inflated(words) if text[:1] == b"\1" else words


def _raw_profile(text: bytes) -> bytes:
    try:
        return bytes.fromhex(b"".join(text.split(b"\n", 3)[3:]).decode("ascii"))  # which passes over ends of lines
    except ValueError:
        return b""


def _inflated(data: bytes) -> bytes:
    try:
        made = zlib.decompressobj()
        found = made.decompress(data, MOST_BYTES)
    except zlib.error:
        return b""
    if made.unconsumed_tail:
        raise ValueError(f"more than {MOST_BYTES} bytes of text")
    return found
