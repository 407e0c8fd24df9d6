"""The loop over a film: decode, enlarge, compare, encode, segment by segment; then all is put together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from quantsr import photos
from quantsr.batch import resources
from quantsr.engine import TooLittleMemory
from quantsr.model import Model
from quantsr.pixels import Pixels
from quantsr.video import clip
from quantsr.video.assemble import assemble
from quantsr.video.clip import Times, VideoError
from quantsr.video.encode import Target, encode
from quantsr.video.job import Job
from quantsr.video.plan import Plan

# Bytes that an encoder takes for a pixel of the result, of 8 bits and of more, and besides: measured at 1920x1080 and
# 3840x2160 on two cores, rounded up.
ENCODER_BYTES = {"av1": (220, 320), "vp9": (160, 160), "ffv1": (45, 80)}
ENCODER_BASE = 80 * resources.MIB


@dataclass(frozen=True)
class Settings:
    """How frames are enlarged. memory: bytes of the whole process. segment: frames. tolerant: pass over damage."""

    depth: str = "full"
    tile: int | None = None
    memory: int | None = None
    check: bool = True
    tolerant: bool = False
    segment: int = 120


class Film:
    """One video to be enlarged. Raises VideoError if `settings.memory` is too little."""

    def __init__(self, model: Model, plan: Plan, target: Target, times: Times, settings: Settings) -> None:
        self.model, self.plan, self.target, self.times, self.settings = model, plan, target, times, settings
        self._memory = self._for_tiles()
        self._last: tuple[Pixels, Pixels] | None = None  # a frame like the one before is not computed again

    @property
    def segments(self) -> int:
        return -(-len(self.times) // self.settings.segment)

    def run(self, job: Job, told: Callable[[float], None]) -> None:
        """Makes what is not there yet. told: frames that are done, with the share of the one in hand."""
        begin = job.finished()
        if begin < self.segments:
            self._encode(job, begin, told)
        told(len(self.times))
        parts = [job.segment(number) for number in range(self.segments)]
        job.put_together(lambda file: assemble(self.plan, file, self.times, parts))

    def _encode(self, job: Job, begin: int, told: Callable[[float], None]) -> None:
        frames = self._frames(begin * self.settings.segment)
        for number in range(begin, self.segments):
            first = number * self.settings.segment
            count = min(self.settings.segment, len(self.times) - first)
            told(first)

            def write(file: BinaryIO, first: int = first, count: int = count) -> None:
                self._last = None  # so that a segment does not depend on the one before
                self._segment(file, first, islice(frames, count), told)
                file.flush()
                self._check_segment(Path(file.name), count)

            job.write(number, write)

    def _frames(self, skip: int) -> Iterator[Any]:
        """The frames of the source, held against the times that were found before. The first `skip` are passed over."""
        frames = clip.frames(self.plan.source, self.plan.head, tolerant=self.settings.tolerant)
        number = 0
        for number, frame in enumerate(frames, 1):
            if number > len(self.times) or frame.pts != self.times.begin[number - 1]:
                raise VideoError(f"{self.plan.source}: frame {number - 1} is another than before; did the file change?")
            if number > skip:
                yield frame
        if number < len(self.times):
            raise VideoError(f"{self.plan.source}: got {number} frames, before there were {len(self.times)}")

    def _segment(self, file: BinaryIO, first: int, frames: Iterator[Any], told: Callable[[float], None]) -> None:
        def enlarged() -> Iterator[Any]:
            for number, frame in enumerate(frames, first):
                image = self.plan.head.colour.pixels(frame)
                result = self._enlarge(number, image, told)
                yield self.plan.head.colour.frame(result, self.target.format)

        try:
            encode(file, self.target, enlarged())
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.plan.path}: {self.target.name} failed ({error.strerror})") from error

    def _enlarge(self, number: int, image: Pixels, told: Callable[[float], None]) -> Pixels:
        if self._last is not None and np.array_equal(self._last[0], image):
            told(number + 1)
            return self._last[1]
        self._last = None
        settings = self.settings
        result = self.model.upscale(
            image, settings.depth, settings.tile, self._memory, lambda share: told(number + share)
        )
        if settings.check and (wrong := photos.mismatch(image, result, self.model.scale)):
            raise VideoError(f"{self.plan.source}: frame {number}: {wrong}; nothing was written of it")
        self._last = image, result
        return result

    def _check_segment(self, path: Path, count: int) -> None:
        """What was encoded can be decoded, to as many frames of the right size."""
        got = 0
        with clip.opened(path) as container, clip.reading(self.plan.path):
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                got += 1
                if (frame.width, frame.height) != (self.target.width, self.target.height):
                    raise VideoError(
                        f"{self.plan.path}: {self.target.name} made frames of {frame.width}x{frame.height}"
                    )
        if got != count:
            raise VideoError(f"{self.plan.path}: {self.target.name} made {got} of {count} frames")

    def _for_tiles(self) -> int | None:
        """Bytes for the tiles; None if there is no limit."""
        limit = self.settings.memory
        if limit is None:
            return None
        head, target = self.plan.head, self.target
        deep = head.colour.bits > 8
        samples = head.width * head.height * (6 if deep else 3)
        pictures = samples * (4 + 3 * self.model.scale**2)  # of this frame, the one before, and on the way
        encoder = ENCODER_BASE + ENCODER_BYTES[target.name][deep] * target.width * target.height
        left = limit - resources.PROGRAM_BYTES - pictures - encoder
        try:
            self.model.tile_within(left, (head.height, head.width), 1, self.settings.depth)
        except TooLittleMemory as error:
            wanted = (limit + error.lacking) // resources.MIB + 1
            raise VideoError(
                f"{self.plan.source}: got --memory {resources.shown(limit)}, wanted about {wanted} MiB"
            ) from None
        return left
