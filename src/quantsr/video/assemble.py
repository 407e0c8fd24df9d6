"""The result: new frames from the segments, all other streams from the source, packet by packet, in order of time."""

import heapq
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av

from quantsr.video.clip import Times, VideoError, demuxed, opened
from quantsr.video.encode import Target
from quantsr.video.plan import ASPECTS, CONTAINERS, LOST, STEPS, Plan
from quantsr.video.verify import Sent, verify

OWN = {"encoder", "duration", "major_brand", "minor_version", "compatible_brands", "bps", "number_of_frames"}
OWN |= {"number_of_bytes", "handler_name", "vendor_id"}  # metadata that tells of a file or stream as it was encoded


def keeps_times(plan: Plan, times: Times) -> bool:
    """Whether the result holds the frames' times exactly. Raises VideoError if two frames would get the same time."""
    if plan.suffix not in STEPS:
        return True
    step = STEPS[plan.suffix] / plan.head.time_base
    exact, before = True, None
    for time in times.begin:
        rounded = round(time / step)
        if rounded == before:
            raise VideoError(f"{plan.path}: frames follow each other within a millisecond; choose .mp4")
        before = rounded
        exact = exact and rounded * step == time
    return exact


def check_fits(plan: Plan, target: Target) -> None:
    """Raises VideoError for what the container cannot hold or the encoder refuses, before any work is done."""
    with opened(plan.source) as original:
        for extra in plan.extras:
            trial = _new(io.BytesIO(), plan)
            try:
                if extra.kind in LOST[plan.suffix]:
                    raise ValueError
                _copy(original.streams[extra.index], trial)
                trial.start_encoding()
            except (ValueError, av.error.FFmpegError):
                raise VideoError(
                    f"{plan.path}: {plan.suffix} cannot hold stream {extra.index} ({extra.kind}, {extra.codec}); "
                    f"choose another container, or --drop {extra.kind}"
                ) from None
    try:
        trial = _new(io.BytesIO(), plan)
        target.add_to(trial)
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError) as error:
        what = f"{target.name}, {target.width}x{target.height}, {target.format}"
        raise VideoError(f"{plan.path}: {plan.suffix} or the encoder refuses {what} ({_told(error)})") from error


def assemble(plan: Plan, file: BinaryIO, times: Times, segments: list[Path]) -> None:
    """Writes the result into an open file, in the container that the suffix names, and reads it again.

    Raises VideoError for segments that do not go together, and if what is read is not what was to be written.
    """
    with opened(plan.source) as original:
        try:
            sent = _put_together(plan, original, file, times, segments)
        except av.error.FFmpegError as error:
            raise VideoError(f"{plan.path}: {plan.suffix} cannot be written ({_told(error)})") from error
    file.flush()
    verify(plan, Path(file.name), times, sent)


def _put_together(plan: Plan, original: Any, file: BinaryIO, times: Times, segments: list[Path]) -> dict[int, Sent]:
    """What was written of each copied stream, by its index in the result."""
    sent: dict[int, Sent] = {}
    with _new(file, plan) as result, av.open(segments[0]) as first:
        video, copies = _streams(plan, original, first.streams.video[0], result)
        old = _packets(plan, original, copies)
        for packet in heapq.merge(_frames(plan, segments, video, times), old, key=_decoding_time):
            sent.setdefault(packet.stream.index, Sent(packet.stream.type)).see(packet)
            result.mux(packet)
        sent.pop(video.index)
    return sent


def _new(file: BinaryIO, plan: Plan) -> Any:
    return av.open(file, "w", format=CONTAINERS[plan.suffix])


def _streams(plan: Plan, original: Any, encoded: Any, result: Any) -> tuple[Any, dict[int, Any]]:
    """The new video stream, and by index in the source the copied ones; in the order of the source."""
    copies: dict[int, Any] = {}
    wanted = {extra.index for extra in plan.extras}
    for stream in original.streams:
        if stream.index == plan.head.index:
            video = result.add_stream_from_template(encoded, opaque=True)
            video.time_base = plan.head.time_base
            video.codec_context.framerate = plan.head.rate
            if plan.head.aspect and plan.suffix in ASPECTS:
                video.codec_context.sample_aspect_ratio = plan.head.aspect
            _describe(stream, video)
            if plan.head.matrix:
                video.set_display_matrix(_enlarged(plan.head.matrix, plan.upscale))
        elif stream.index in wanted:
            copies[stream.index] = _copy(stream, result)
    result.metadata.update(_kept(original.metadata))
    result.set_chapters(original.chapters())
    return video, copies


def _copy(stream: Any, result: Any) -> Any:
    copy = result.add_stream_from_template(stream, opaque=True)
    _describe(stream, copy)
    return copy


def _describe(stream: Any, like: Any) -> None:
    like.metadata.update(_kept(stream.metadata))
    like.disposition = stream.disposition


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    """Without what the muxer writes itself, and the statistics of mkvmerge, which would be wrong."""
    return {
        key: text
        for key, text in metadata.items()
        if key.lower().split("-")[0] not in OWN and not key.startswith("_STATISTICS")
    }


def _decoding_time(packet: Any) -> float:
    return float(packet.dts * packet.time_base)


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _frames(plan: Plan, segments: list[Path], stream: Any, times: Times) -> Iterator[Any]:
    """The packets of all segments, each with the time of its frame."""
    number, private = 0, None
    for path in segments:
        with av.open(path) as segment:
            context = segment.streams.video[0].codec_context
            private = private or bytes(context.extradata or b"")
            if bytes(context.extradata or b"") != private:
                raise VideoError(f"{plan.path}: {path.name} was encoded by another encoder; --force begins again")
            for packet in segment.demux(video=0):
                if not packet.size:
                    continue
                if number == len(times):
                    raise VideoError(f"{plan.path}: more than the {number} frames of the source in the segments")
                packet.stream, packet.time_base = stream, plan.head.time_base
                packet.pts = packet.dts = times.begin[number]
                followed = number + 1 < len(times)
                packet.duration = times.begin[number + 1] - packet.pts if followed else times.last[number]
                number += 1
                yield packet
    if number != len(times):
        raise VideoError(f"{plan.path}: {number} frames in the segments, {len(times)} in the source")


def _packets(plan: Plan, original: Any, copies: dict[int, Any]) -> Iterator[Any]:
    """The packets of the copied streams, as they are."""
    streams = [original.streams[index] for index in copies if original.streams[index].type != "attachment"]
    for packet in demuxed(plan.source, original, streams) if streams else ():
        if packet.dts is None:
            if packet.pts is None:
                continue  # the end
            packet.dts = packet.pts
        packet.stream = copies[packet.stream_index]
        yield packet


def _enlarged(matrix: tuple[int, ...], upscale: int) -> list[int]:
    """A display matrix whose shift, in pixels, is that of the larger picture. Nonsense stays within 32 bits."""
    shifted = [number * upscale if index in (6, 7) else number for index, number in enumerate(matrix)]
    return [max(-(2**31), min(2**31 - 1, number)) for number in shifted]
