"""Reading a written file: every frame at its time, every copied stream whole and in step with the frames."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from quantsr.video.clip import Times, VideoError, extras, film, opened, reading
from quantsr.video.encode import Target
from quantsr.video.plan import STEPS, Plan

SHIFT = Fraction(1, 2)  # seconds by which a container that holds no negative times may move all streams together
OUT_OF_STEP = Fraction(1, 500)  # seconds: two roundings to the milliseconds of Matroska


@dataclass
class Sent:
    """Of a stream: packets, and the times of the first and the last in seconds."""

    kind: str
    packets: int = 0
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def see(self, packet: Any) -> None:
        self.last = _time(packet)
        self.first = self.last if self.packets == 0 else self.first
        self.packets += 1


def verify(plan: Plan, made: Path, times: Times, sent: dict[int, Sent]) -> None:
    """made: the file, which is to become `plan.path`. sent: of the copied streams, by index. Raises VideoError."""
    with opened(made) as result, reading(plan.path):
        _count(plan, result)
        index, frames, shift = film(plan.path, result).index, 0, Fraction(0)
        got: dict[int, Sent] = {}
        for packet in result.demux():
            if packet.dts is None:
                continue  # the end
            if packet.stream_index != index:
                got.setdefault(packet.stream_index, Sent(packet.stream.type)).see(packet)
                continue
            if frames == len(times):
                raise VideoError(f"{plan.path}: more than the {frames} frames of the source were written")
            moved = _time(packet) - times.begin[frames] * plan.head.time_base
            shift = moved if frames == 0 else shift
            if abs(moved - shift) > STEPS.get(plan.suffix, 0) or abs(shift) > SHIFT:
                raise VideoError(f"{plan.path}: frame {frames} was written {float(moved):.4f} s off its time")
            frames += 1
    if frames != len(times):
        raise VideoError(f"{plan.path}: {frames} of {len(times)} frames were written")
    for index, stream in sent.items():
        _compare(plan, stream, got.get(index, Sent(stream.kind)), shift)


def check_result(plan: Plan, target: Target, times: Times) -> None:
    """Whether the file at `plan.path` is whole and has size, codec, streams and times of what would be made.

    Its frames are not looked at, so the network that made them may be another. Raises VideoError.
    """
    try:
        with opened(plan.path) as result, reading(plan.path):
            context = film(plan.path, result).codec_context
            got = f"{context.codec.canonical_name} of {context.width}x{context.height}"
        wanted = f"{target.name} of {target.width}x{target.height}"
        if got != wanted:
            raise VideoError(f"got {got}, wanted {wanted}")
        verify(plan, plan.path, times, {})
    except VideoError as error:
        told = str(error).removeprefix(f"{plan.path}: ")
        raise VideoError(
            f"{plan.path} exists and is not the result of this ({told}); pass --force to overwrite it"
        ) from error


def _count(plan: Plan, result: Any) -> None:
    """As many streams of each kind as there should be. MP4 may have more: it writes chapters as one of data."""
    wanted = Counter(extra.kind for extra in plan.extras)
    got = Counter(extra.kind for extra in extras(result, film(plan.path, result)))
    for kind, count in (wanted - got).items():
        raise VideoError(f"{plan.path}: {count} streams of {kind} were not written")


def _compare(plan: Plan, before: Sent, after: Sent, shift: Fraction) -> None:
    """Subtitles may gain empty packets, by which MP4 ends the others."""
    whole = after.packets == before.packets or (before.kind == "subtitle" and after.packets > before.packets)
    late = max(abs(after.first - before.first - shift), abs(after.last - before.last - shift) if whole else Fraction(0))
    if not whole or (late > OUT_OF_STEP and before.kind != "subtitle"):
        raise VideoError(
            f"{plan.path}: a stream ({before.kind}) was written with {after.packets} of {before.packets} packets, "
            f"{float(late):.4f} s out of step with the frames"
        )


def _time(packet: Any) -> Fraction:
    ticks: int = packet.dts if packet.pts is None else packet.pts
    return Fraction(ticks * packet.time_base)
