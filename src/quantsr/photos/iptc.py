"""Where JPEG and TIFF keep IPTC records, the captions and rights of press photographs.

(IPTC-IIM 4.2; Adobe Photoshop File Formats.) In a JPEG they are one of Photoshop's resources, in segment APP13. The
others there stay behind: a thumbnail, the resolution, paths in pixels, a digest of what was in this one.
"""

import struct

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

RESOURCE = 0x0404
TAG = 33723
APP13 = b"\xff\xed"


def of_jpeg(image: Image.Image) -> bytes:
    return bytes(image.info.get("photoshop", {}).get(RESOURCE, b""))


def of_tiff(image: Image.Image) -> bytes:
    """Many programs call these bytes numbers of 32 bits, of which Pillow tells but the first."""
    assert isinstance(image, TiffImageFile)
    return image.tag_v2._tagdata.get(TAG, b"")


def segment(records: bytes) -> bytes:
    """A JPEG's APP13, marker and length included. Raises struct.error for more than a segment holds."""
    resource = struct.pack(">4sHHI", b"8BIM", RESOURCE, 0, len(records)) + records  # 0: no name
    content = b"Photoshop 3.0\0" + resource + bytes(len(records) % 2)
    return APP13 + struct.pack(">H", 2 + len(content)) + content
