"""A segment: some frames as a file of their own, encoded from a fresh start, so that segments can be put end to end.

All three codecs put packets out in the order of the frames, one each, whose decoding and presentation times are the
same. So a segment needs no times of its own: its n-th packet is the n-th frame, whatever the frame's time is.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av

from quantsr.video.clip import Head, VideoError
from quantsr.video.colour import Colour

SEGMENT = "matroska"  # holds all of the codecs


@dataclass(frozen=True)
class Codec:
    """An encoder that may be redistributed. crf: default of its quality, 0 best to 63; None if it loses nothing."""

    encoder: str
    crf: int | None
    options: dict[str, str]


CODECS = {
    "av1": Codec("libsvtav1", 24, {"preset": "8"}),
    "vp9": Codec("libvpx-vp9", 24, {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),
    "ffv1": Codec("ffv1", None, {"level": "3", "slicecrc": "1", "g": "1"}),
}


@dataclass(frozen=True)
class Target:
    """The new video stream. name: of a codec; format: of its pixels."""

    name: str
    crf: int | None
    width: int
    height: int
    format: str
    colour: Colour
    rate: Fraction
    gop: int
    threads: int

    @classmethod
    def of(cls, head: Head, upscale: int, name: str, crf: int | None, gop: int, threads: int) -> "Target":
        """Raises VideoError if PyAV lacks the encoder, or it holds fewer bits than the source has."""
        codec = CODECS[name]
        try:
            formats = [kind.name for kind in av.codec.Codec(codec.encoder, "w").video_formats or ()]
        except av.codec.codec.UnknownCodecError:
            raise VideoError(f"this PyAV has no {codec.encoder}; choose another --codec than {name}") from None
        return cls(
            name,
            codec.crf if crf is None else crf,
            head.width * upscale,
            head.height * upscale,
            nearest(head.format, head.colour, formats, name),
            head.colour,
            head.rate,
            gop,
            threads,
        )

    def format_loses(self, head: Head) -> bool:
        """Whether bits or resolution of colour of the source's pixels do not fit into the result's."""
        old, new = (av.VideoFormat(kind, 64, 64) for kind in (head.format, self.format))
        old_chroma = (old.chroma_width(64), old.chroma_height(64))
        fewer = any(o > n for o, n in zip(old_chroma, (new.chroma_width(64), new.chroma_height(64)), strict=True))
        return head.colour.bits > new.components[0].bits or (fewer and not head.colour.gray)

    def add_to(self, container: Any) -> Any:
        """A stream of `container` that encodes."""
        os.environ.setdefault("SVT_LOG", "1")  # errors; SVT-AV1 tells its settings on stderr otherwise
        codec = CODECS[self.name]
        quality = {} if self.crf is None else {"crf": str(self.crf)}
        if self.name == "av1":  # FFmpeg's own option takes 0 for none given
            quality = {"svtav1-params": f"crf={self.crf}"}
        options = codec.options | quality
        stream = container.add_stream(codec.encoder, rate=self.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.format
        stream.time_base = stream.codec_context.time_base = 1 / self.rate
        stream.gop_size = self.gop if codec.crf is not None else 1
        stream.thread_count = self.threads
        rgb = av.VideoFormat(self.format).is_rgb
        context = stream.codec_context
        context.colorspace, context.color_range = (0, 2) if rgb else self.colour.written
        context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        return stream


def encode(file: BinaryIO, target: Target, frames: Iterable[Any]) -> None:
    """Writes the frames as a segment into an open file. Raises VideoError, or OSError from the file."""
    with av.open(file, "w", format=SEGMENT) as container:
        stream = target.add_to(container)
        try:
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = number, stream.codec_context.time_base
                container.mux(stream.encode(frame))
        except BaseException:
            if target.name == "av1":  # SVT-AV1 ends its frames in any case, and complains on stderr if it is not told
                with suppress(av.error.FFmpegError):
                    stream.encode(None)
            raise
        container.mux(stream.encode(None))


def nearest(source: str, colour: Colour, formats: list[str], name: str) -> str:
    """Of an encoder's formats the one that keeps most of the source's: bits, then colour, then its resolution.

    Raises VideoError if the bits of a deep source do not fit, since there 8 bits are asked for by another codec's name.
    """
    wanted = av.VideoFormat(source, 64, 64)

    def rank(candidate: str) -> tuple[Any, ...]:
        kind = av.VideoFormat(candidate, 64, 64)
        bits = kind.components[0].bits
        rgb, gray = kind.is_rgb, len(kind.components) == 1
        chroma = (kind.chroma_width(64), kind.chroma_height(64))
        asked = (wanted.chroma_width(64), wanted.chroma_height(64))
        return (
            max(0, min(colour.bits, 10) - bits),
            gray and not colour.gray,
            max(0, colour.bits - bits),
            rgb is not wanted.is_rgb,
            gray is not colour.gray,
            sum(max(0, a - c) for a, c in zip(asked, chroma, strict=True)),
            sum(max(0, c - a) for a, c in zip(asked, chroma, strict=True)),
            bits,
        )

    plain = [
        each
        for each in formats
        if not each.startswith(("ya", "rgb", "bgra", "gbrpf", "grayf")) and "a" not in each.replace("gray", "")
    ]
    best = min(plain, key=rank)
    bits = av.VideoFormat(best, 64, 64).components[0].bits
    if bits < min(colour.bits, 10):
        raise VideoError(f"got {colour.bits} bits a sample, {name} holds {bits} here; choose --codec av1 or ffv1")
    return best
