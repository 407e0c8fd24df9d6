"""Pixels of a frame as RGB and back: which matrix, which range, how many bits. libswscale computes.

Where a file does not tell its matrix, players guess it from the height of the picture. A result is larger, so they
would guess another; therefore the guess for the source is written down in the result.
"""

from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from quantsr.pixels import Pixels

BICUBIC, FULL_CHROMA, FULL_CHROMA_IN, ACCURATE = 0x4, 0x2000, 0x4000, 0x40000  # SWS_* flags
SCALER = BICUBIC | FULL_CHROMA | FULL_CHROMA_IN | ACCURATE
RGB, BT709, UNKNOWN, BT470BG, SMPTE170M = 0, 1, 2, 5, 6  # AVColorSpace
SCALER_MATRIX = {BT709: 1, 4: 4, BT470BG: 5, SMPTE170M: 5, 7: 7, 9: 9}  # AVColorSpace -> SWS_CS_*
LIMITED, FULL = 1, 2  # AVColorRange
HD_WIDTH, HD_HEIGHT = 1280, 720  # from here on an unknown matrix is taken for BT.709


class NotConvertible(ValueError):
    """Pixels of a kind that libswscale cannot make RGB of."""


@dataclass(frozen=True)
class Colour:
    """matrix, range, primaries, transfer: numbers of ITU-T H.273, as FFmpeg has them. bits: of a sample in the file."""

    matrix: int
    range: int
    primaries: int
    transfer: int
    bits: int
    gray: bool
    alpha: bool

    @classmethod
    def of(cls, frame: Any) -> "Colour":
        """Raises NotConvertible."""
        kind = frame.format
        parts = kind.components
        rgb = kind.is_rgb or kind.has_palette
        matrix = RGB if rgb else frame.colorspace
        if matrix in (UNKNOWN, RGB) and not rgb:
            matrix = BT709 if frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT else SMPTE170M
        if not rgb and matrix not in SCALER_MATRIX:
            raise NotConvertible(f"got the colour matrix {matrix} of H.273, wanted BT.601, BT.709, BT.2020 or RGB")
        full = rgb or frame.color_range == FULL or kind.name.startswith("yuvj")
        return cls(
            matrix,
            FULL if full else LIMITED,
            frame.color_primaries,
            frame.color_trc,
            max(part.bits for part in parts),
            not rgb and len([part for part in parts if not part.is_alpha]) == 1,
            any(part.is_alpha for part in parts),
        )

    @property
    def written(self) -> "tuple[int, int]":
        """Matrix and range of an encoded YUV stream: RGB becomes BT.709 of limited range there."""
        return (BT709, LIMITED) if self.matrix == RGB else (self.matrix, self.range)

    def pixels(self, frame: Any) -> Pixels:
        """(H, W, 3) RGB or (H, W) gray; uint8, or uint16 for more than 8 bits. Alpha is left out."""
        if self.matrix != RGB:
            frame.colorspace, frame.color_range = self.matrix, self.range
        rgb = frame.to_ndarray(format="rgb24" if self.bits <= 8 else "rgb48le", interpolation=SCALER)
        return np.ascontiguousarray(rgb[..., 1]) if self.gray else rgb

    def frame(self, image: Pixels, format: str) -> Any:
        """The reverse: a frame of the format, for `written`."""
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        rgb = av.VideoFrame.from_ndarray(image, "rgb24" if image.dtype == np.uint8 else "rgb48le")
        if av.VideoFormat(format).is_rgb:
            frame = rgb.reformat(format=format, interpolation=SCALER)
            frame.colorspace, frame.color_range = RGB, FULL
        else:
            matrix, range_ = self.written
            frame = rgb.reformat(
                format=format, dst_colorspace=SCALER_MATRIX[matrix], dst_color_range=range_, interpolation=SCALER
            )
            frame.colorspace, frame.color_range = matrix, range_
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer
        return frame
