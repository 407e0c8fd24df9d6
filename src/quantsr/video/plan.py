"""What a result is made of, and what its container can do."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from quantsr.video.clip import Extra, Head

CONTAINERS = {".mkv": "matroska", ".webm": "webm", ".mp4": "mp4"}  # suffix -> FFmpeg's name
STEPS = {".mkv": Fraction(1, 1000), ".webm": Fraction(1, 1000)}  # of time; .mp4 takes the source's own
LOST = {".mkv": {"covers"}, ".webm": {"covers", "attachments"}, ".mp4": {"covers"}}  # taken, but not written
ASPECTS = (".mp4",)  # which can be told of pixels that are not square: PyAV has no way to tell Matroska


@dataclass(frozen=True)
class Plan:
    """What the result is made of. drop: kinds of streams that are left out."""

    source: Path
    path: Path
    head: Head
    upscale: int
    drop: frozenset[str]

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def extras(self) -> list[Extra]:
        """What is copied."""
        return [extra for extra in self.head.extras if extra.kind not in self.drop]
