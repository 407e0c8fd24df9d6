"""The file formats that are written, and what each can hold."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Format:
    """name: Pillow's. longest: pixels on a side. quality: of a lossy format, 1 to 100."""

    name: str
    suffixes: tuple[str, ...]
    longest: int
    alpha: bool = True
    deep: bool = False  # 16 bits
    gray: bool = True
    metadata: bool = True  # EXIF, XMP and colour profile
    quality: int | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # for Pillow's encoder


FORMATS = {
    "png": Format("PNG", (".png",), 2**31 - 1, deep=True),
    "jpg": Format(
        "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), 65_500, alpha=False, quality=95, options={"subsampling": 0}
    ),
    "webp": Format("WEBP", (".webp",), 16_383, gray=False, quality=95),
    "tiff": Format("TIFF", (".tif", ".tiff"), 2**31 - 1, deep=True),
    "avif": Format("AVIF", (".avif",), 65_536, quality=85),
    "bmp": Format("BMP", (".bmp",), 2**31 - 1, alpha=False, metadata=False),
}
READABLE = (*(suffix for kind in FORMATS.values() for suffix in kind.suffixes), ".gif")
# Of pictures that are not read, so that a folder of them is not passed over without a word.
UNREAD = (
    *(".arw", ".cr2", ".cr3", ".dng", ".exr", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jxl", ".nef", ".orf"),
    *(".pbm", ".pgm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga"),
)
FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
READERS = (*(kind.name for kind in FORMATS.values()), "GIF")  # Pillow's; no other decoder is ever tried


def format_of(path: Path) -> Format | None:
    """The format that a file of this name is written in."""
    return next((kind for kind in FORMATS.values() if path.suffix.lower() in kind.suffixes), None)


def advice_on_films(path: Path) -> str:
    """What a refusal adds if the name is that of a film."""
    return "; `quantsr video` enlarges films" if path.suffix.lower() in FILMS else ""
