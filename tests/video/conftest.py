"""Clips that are made up: a moving picture with sound and subtitles, in any container, codec and rhythm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

try:
    import av
except ImportError:  # the tests skip themselves
    pass

SRT = "1\n00:00:00,100 --> 00:00:00,300\nFirst line\n\n2\n00:00:00,400 --> 00:00:00,700\nÜmlaut\n"


@dataclass
class Clip:
    """What a test may ask for. times: in units of `tick`; None for an even 25 frames per second."""

    frames: int = 12
    width: int = 48
    height: int = 36
    codec: str = "ffv1"
    format: str = "yuv420p"
    times: Sequence[int] | None = None
    tick: Fraction = Fraction(1, 1000)
    audio: str | None = "flac"
    srt: bool = False
    rotation: int = 0
    colour: tuple[int, int, int, int] | None = None  # matrix, range, primaries, transfer
    image: Callable[[int], np.ndarray] | None = None  # RGB of a frame
    chapters: list[dict[str, Any]] = field(default_factory=list)
    aspect: Fraction | None = None


@pytest.fixture(scope="session")
def make_clip(picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """make_clip(path, **fields of Clip): writes it and returns the path."""

    def moving(clip: Clip) -> Callable[[int], np.ndarray]:
        big = picture(clip.height, clip.width + 200, 5)
        return lambda number: np.ascontiguousarray(big[:, 2 * number : 2 * number + clip.width])

    def make(path: Path, **wishes: Any) -> Path:
        clip = Clip(**wishes)
        times = clip.times or [round(number / 25 / clip.tick) for number in range(clip.frames)]
        texts = _subtitles(path) if clip.srt else None
        picture_of = clip.image or moving(clip)
        with av.open(str(path), "w") as out:
            video = out.add_stream(clip.codec, rate=25)
            video.width, video.height, video.pix_fmt = clip.width, clip.height, clip.format
            video.time_base = video.codec_context.time_base = clip.tick
            if clip.rotation:
                video.set_display_rotation(clip.rotation)
            if clip.aspect:
                video.codec_context.sample_aspect_ratio = clip.aspect
            if clip.colour:
                context = video.codec_context
                context.colorspace, context.color_range, context.color_primaries, context.color_trc = clip.colour
            sound = out.add_stream(clip.audio, rate=48000) if clip.audio else None
            if sound:
                sound.metadata["language"] = "deu"
            words = out.add_stream_from_template(texts.streams.subtitles[0]) if texts else None
            out.metadata["title"] = "Tïtle"
            if clip.chapters:
                out.set_chapters(clip.chapters)
            for number, time in enumerate(times):
                image = picture_of(number)
                kind = "rgb24" if image.dtype == np.uint8 else "rgb48le"
                frame = av.VideoFrame.from_ndarray(image, kind).reformat(format=clip.format, interpolation=0x46004)
                if clip.colour:
                    frame.colorspace, frame.color_range = clip.colour[:2]
                frame.pts, frame.time_base = time, clip.tick
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
            for packet in texts.demux(subtitles=0) if texts else ():
                if packet.size:
                    packet.stream = words
                    out.mux(packet)
            if sound:
                _noise(out, sound, times[-1] * clip.tick)
        if texts:
            texts.close()
        return path

    return make


def _subtitles(path: Path) -> Any:
    srt = path.with_suffix(".srt")
    srt.write_text(SRT, encoding="utf-8")
    return av.open(str(srt))


def _noise(out: Any, sound: Any, seconds: Fraction) -> None:
    kind = sound.codec_context.format.name
    size = sound.codec_context.frame_size or 1024
    for number in range(int(seconds * 48000) // size + 1):
        noise = np.random.default_rng(number).normal(0, 0.1, (2, size))
        samples = noise.astype(np.float32) if kind.startswith("flt") else (noise * 20000).astype(np.int16)
        packed = samples if kind.endswith("p") else np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, kind, layout="stereo")
        frame.sample_rate, frame.pts = 48000, number * size
        out.mux(sound.encode(frame))
    out.mux(sound.encode(None))
