"""Where JPEG and TIFF keep IPTC records, the captions and rights of press photographs.

(IPTC-IIM 4.2; Adobe Photoshop File Formats.) In a JPEG they are one of Photoshop's resources, in segment APP13. The
others there stay behind: a thumbnail, the resolution, paths in pixels, a digest of what was in this one.
"""

import struct

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

RESOURCE = 0x0404
TAG = 33723
APP13, HEAD = b"\xff\xed", b"Photoshop 3.0\0"
PART_BYTES = 65_533 - len(HEAD)  # of the resources in a segment


def of_jpeg(image: Image.Image) -> bytes:
    """The records of an opened image; none of another format, or if they are cut off.

    Resources may run over several segments, of which Pillow reads each alone.
    """
    parts = [data for name, data in getattr(image, "applist", ()) if name == "APP13" and data.startswith(HEAD)]
    data, at = b"".join(part.removeprefix(HEAD) for part in parts), 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        code, name_bytes = struct.unpack_from(">HB", data, at + 4)
        at += 6 + (name_bytes + 2) // 2 * 2
        length = int.from_bytes(data[at : at + 4], "big")
        if code == RESOURCE:
            return data[at + 4 : at + 4 + length] if at + 4 + length <= len(data) else b""
        at += 4 + (length + 1) // 2 * 2
    return b""


def of_tiff(image: Image.Image) -> bytes:
    """The records of an opened TIFF. Many programs call them numbers of 32 bits; Pillow tells the first alone."""
    assert isinstance(image, TiffImageFile)
    return image.tag_v2._tagdata.get(TAG, b"")


def segments(records: bytes) -> bytes:
    """Those of a JPEG, markers and lengths included; nothing without records."""
    if not records:
        return b""
    data = struct.pack(">4sHHI", b"8BIM", RESOURCE, 0, len(records)) + records + bytes(len(records) % 2)  # 0: no name
    parts = [HEAD + data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    return b"".join(APP13 + struct.pack(">H", 2 + len(part)) + part for part in parts)
