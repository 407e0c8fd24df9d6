"""Photographs as files: read whole, written whole. What goes in and what comes out is told in docs/photos.md."""

from quantsr.photos.check import Mismatch, mismatch
from quantsr.photos.formats import FORMATS, READABLE, UNREAD, Format, format_of
from quantsr.photos.photo import Metadata, Photo, PhotoError
from quantsr.photos.read import Facts, probe, read
from quantsr.photos.write import check_fits, write

__all__ = [
    "FORMATS",
    "READABLE",
    "UNREAD",
    "Facts",
    "Format",
    "Metadata",
    "Mismatch",
    "Photo",
    "PhotoError",
    "check_fits",
    "format_of",
    "mismatch",
    "probe",
    "read",
    "write",
]
