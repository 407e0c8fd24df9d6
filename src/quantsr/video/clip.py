"""A video file that is read: what its head tells, and its frames, decoded one after the other."""

import errno
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from quantsr import photos
from quantsr.video.colour import Colour, NotConvertible

# Formats that hold a film in one file. Playlists are not among them: they would make us read other files.
FORMATS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,mpegts,mpeg,flv,ogg,nut,ivf,asf,mxf"
NAMES = "Matroska, WebM, MP4, MOV, AVI, MPEG-TS, MPEG-PS, FLV, Ogg, NUT, IVF, ASF or MXF"
KINDS = {"audio": "audio", "subtitle": "subtitles", "attachment": "attachments", "data": "data"}  # type -> --drop
# How the outermost boxes begin of which a file consists: the first bytes of Matroska's and ASF's, the kinds of MP4's.
MATROSKA = (bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067"))
ASF = tuple(bytes.fromhex(start) for start in ("3026b2758e66cf11", "3626b2758e66cf11", "90080033b1e5cf11"))
MP4 = b"ftyp styp moov moof mdat mfra sidx ssix emsg prft pdin meta free skip wide uuid".split()
MATRIX = "DISPLAYMATRIX"


class VideoError(ValueError):
    """A file that cannot be read, written or enlarged as asked; names it, what was got and what was wanted."""


@dataclass(frozen=True)
class Extra:
    """A stream that is copied. kind: as `--drop` names it."""

    index: int
    kind: str
    codec: str


@dataclass(frozen=True)
class Head:
    """What is known before all is decoded. format: of the pixels, FFmpeg's name. rate: frames a second, on average.

    matrix: how to turn and flip the picture for display, nine numbers; None if it is to be seen as it is stored.
    aspect: width of a pixel over its height, None if unknown.
    """

    width: int
    height: int
    format: str
    colour: Colour
    time_base: Fraction
    rate: Fraction
    matrix: tuple[int, ...] | None
    aspect: Fraction | None
    index: int
    extras: tuple[Extra, ...]


@dataclass
class Times:
    """When each frame begins and how long it lasts (0 if unknown), in the clip's time base."""

    begin: "array[int]"
    last: "array[int]"

    def __len__(self) -> int:
        return len(self.begin)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, as PyAV opens it. Raises VideoError for what is no video, and PermissionError."""
    if not path.is_file():
        raise VideoError(f"{path}: {'is a folder, wanted a video' if path.is_dir() else 'no such file'}")
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        with reading(path):
            container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except VideoError as error:
        raise VideoError(f"{error}; {_instead(path)}") from error
    with container:
        yield container


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """FFmpeg's errors within are those of this file."""
    try:
        yield
    except av.error.PermissionError as error:
        raise PermissionError(error.errno, os.strerror(error.errno), str(path)) from error
    except av.error.FFmpegError as error:
        told = "" if error.errno == errno.EINVAL else f" ({error.strerror})"  # it is for formats that are not asked for
        raise VideoError(f"{path}: not a readable video{told}") from error


def _instead(path: Path) -> str:
    """What to do about a file that is no video."""
    try:
        photos.probe(path)
    except photos.PhotoError:
        return f"wanted {NAMES}"
    return "`quantsr upscale` enlarges pictures"


def probe(path: Path) -> Head:
    """Decodes one frame. Raises VideoError for what cannot be enlarged, and for what cannot be told from the head."""
    with opened(path) as container, reading(path):
        stream = film(path, container)
        frame = next(_decoded(path, container, stream, tolerant=True), None)
        if frame is None:
            raise VideoError(f"{path}: got no frame that can be decoded")
        try:
            colour = Colour.of(frame)
        except NotConvertible as error:
            raise VideoError(f"{path}: {error}") from error
        sides = frame.side_data
        matrix = next((bytes(data) for data in sides if data.type.name == MATRIX), None)
        return Head(
            frame.width,
            frame.height,
            frame.format.name,
            colour,
            stream.time_base,
            stream.average_rate or stream.guessed_rate or Fraction(25),
            None if matrix is None else tuple(memoryview(matrix).cast("i")),
            stream.sample_aspect_ratio or None,
            stream.index,
            extras(container, stream),
        )


def scan(path: Path, head: Head, *, tolerant: bool, told: Callable[[int], None] | None = None) -> Times:
    """The times of all frames. Everything is decoded, so that damage is found before a frame is enlarged."""
    times = Times(array("q"), array("q"))
    with opened(path) as container, reading(path):
        if not tolerant and (size := _told_size(path, container.size)) > container.size:
            raise VideoError(
                f"{path}: cut short: got {container.size} bytes, wanted {size} as its heads say; "
                "--accept-damage takes what is there"
            )
        ends = _Ends(container)
        for frame in _checked(path, head, container, tolerant, ends):
            times.begin.append(frame.pts)
            times.last.append(frame.duration or 0)
            if told:
                told(len(times))
        if not tolerant and (missing := ends.missing()) > 0:
            raise VideoError(
                f"{path}: cut short: ends {missing:.2f} s before its head says; --accept-damage takes what is there"
            )
    return times


def frames(path: Path, head: Head, *, tolerant: bool) -> Iterator[Any]:
    """The frames, decoded one by one, as PyAV's VideoFrame.

    tolerant: pass over packets that cannot be decoded. Raises VideoError for them otherwise, for interlaced frames,
    for times that do not rise, and where size or kind of the frames change.
    """
    with opened(path) as container:
        yield from _checked(path, head, container, tolerant, None)


def _checked(path: Path, head: Head, container: Any, tolerant: bool, ends: "_Ends | None") -> Iterator[Any]:
    before = None
    for number, frame in enumerate(_decoded(path, container, container.streams[head.index], tolerant, ends)):
        if frame.pts is None:
            raise VideoError(f"{path}: frame {number} has no time; put the stream into a container that holds times")
        if before is not None and frame.pts <= before:
            raise VideoError(f"{path}: frame {number} is not later than the one before ({_seconds(frame):.3f} s)")
        before = frame.pts
        got, wanted = (frame.width, frame.height, frame.format.name), (head.width, head.height, head.format)
        if got != wanted:
            raise VideoError(
                f"{path}: at {_seconds(frame):.3f} s frames change from {_shape(*wanted)} to {_shape(*got)}; split it"
            )
        yield frame


def _decoded(path: Path, container: Any, stream: Any, tolerant: bool, ends: "_Ends | None" = None) -> Iterator[Any]:
    stream.thread_type = "SLICE"  # threads for frames swallow the errors of the last packets
    number = 0
    for packet in demuxed(path, container, [] if ends else [stream]):
        if ends:
            ends.see(packet)
        if packet.is_corrupt and not tolerant:
            raise _damaged(path, number, "a packet is cut short or broken")
        if packet.stream.index != stream.index:  # stream_index of the packet that ends a stream is always 0
            continue
        try:
            decoded = packet.decode()
        except av.error.FFmpegError as error:
            if not tolerant:
                raise _damaged(path, number, error.strerror) from error
            continue
        for frame in decoded:
            if frame.is_corrupt and not tolerant:
                raise _damaged(path, number, "the decoder had to make up parts of the picture")
            if frame.interlaced_frame:
                raise VideoError(f"{path}: frame {number} is interlaced, wanted whole frames; deinterlace it first")
            yield frame
            number += 1


def demuxed(path: Path, container: Any, streams: list[Any]) -> Iterator[Any]:
    """The packets of these streams, or of all."""
    packets = container.demux(*streams)
    while True:
        with reading(path):
            packet = next(packets, None)
        if packet is None:
            return
        yield packet


class _Ends:
    """How far the packets reach, against the length that the head tells."""

    def __init__(self, container: Any) -> None:
        # Some containers count it from zero, some from the first packet; what begins later then seems to end later.
        self._told = Fraction((container.duration or 0) + min(container.start_time or 0, 0), av.time_base)
        self._reached = self._longest = Fraction(0)
        self._before: dict[int, Fraction] = {}

    def see(self, packet: Any) -> None:
        known = [time * packet.time_base for time in (packet.dts, packet.pts) if time is not None]
        if not known:
            return
        begin, lasts = known[0], (packet.duration or 0) * packet.time_base
        self._reached = max(self._reached, known[-1] + lasts)
        if packet.stream.type in ("video", "audio"):
            self._longest = max(self._longest, lasts, begin - self._before.get(packet.stream_index, begin))
            self._before[packet.stream_index] = begin

    def missing(self) -> float:
        """Seconds, 0 up to two packets: not all heads count the last one, and what an encoder puts before the sound."""
        missing = self._told - self._reached
        return float(missing) if missing > 2 * self._longest else 0.0


def _told_size(path: Path, got: int) -> int:
    """Bytes up to the end of the last outermost box, more than the file's `got` if it is cut; 0 for formats without."""
    end = 0
    with path.open("rb") as file:
        while end < got and (size := _box(file.read(24))):
            end += size
            file.seek(min(end, got))
    return end


def _box(head: bytes) -> int:
    """Bytes of the box that begins so, in Matroska, MP4, AVI or ASF; 0 if it is none, or was written live."""
    if head.startswith(MATROSKA):
        length = 9 - int.from_bytes(head[4:5], "big").bit_length()  # of the size: one byte, and one for each leading 0
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[4 : 4 + length], "big") & unknown
        return 0 if size == unknown else 4 + length + size
    if head[4:8] in MP4:
        size = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if size == 1 else size
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(ASF):
        return int.from_bytes(head[16:24], "little")
    return 0


def film(path: Path, container: Any) -> Any:
    """Its one video stream that is no cover picture. Raises VideoError."""
    found = [stream for stream in container.streams.video if not _is_cover(stream)]
    if len(found) != 1:
        raise VideoError(f"{path}: got {len(found)} video streams, wanted one")
    if found[0].codec_context is None:
        raise VideoError(f"{path}: this PyAV has no decoder for its video stream")
    return found[0]


def extras(container: Any, film: Any) -> tuple[Extra, ...]:
    """All streams but the film."""
    return tuple(_extra(stream) for stream in container.streams if stream.index != film.index)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _extra(stream: Any) -> Extra:
    codec = stream.codec_context.name if stream.codec_context else stream.name or "unknown"
    return Extra(stream.index, "covers" if stream.type == "video" else KINDS.get(stream.type, "data"), codec)


def _damaged(path: Path, number: int, what: str) -> VideoError:
    return VideoError(f"{path}: damaged after frame {number} ({what}); --accept-damage takes what can be decoded")


def _seconds(frame: Any) -> float:
    return float(frame.pts * frame.time_base)


def _shape(width: int, height: int, kind: str) -> str:
    return f"{width}x{height} {kind}"
