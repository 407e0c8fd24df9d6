"""A film comes back whole: every frame at its time, sound and subtitles byte for byte, colours where they were."""

import errno
import importlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantsr
from quantsr.cli import main
from quantsr.commands import video as command

av = pytest.importorskip("av")
clips, colour, encode, plan = (
    importlib.import_module(f"quantsr.video.{room}") for room in ("clip", "colour", "encode", "plan")
)

MODEL = "quantsr-c-x2-w4a4"
OPTIONS = ("-n", MODEL, "--depth", "quarter", "--threads", "1")
Make = Callable[..., Path]
UNEVEN = [0, 33, 34, 70, 71, 120, 500, 501, 502, 777, 900, 901]  # milliseconds


def enlarge(*arguments: object) -> int:
    return main(["video", *OPTIONS, *map(str, arguments)])


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets(path: Path, kind: str) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(bytes(p), p.pts * p.time_base) for p in container.demux(stream) if p.size]


def pictures(path: Path, kind: str = "rgb24") -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=kind, interpolation=0x46004) for frame in container.decode(video=0)]


@pytest.mark.parametrize("codec", encode.CODECS)
@pytest.mark.parametrize("rhythm", [None, UNEVEN], ids=["even", "uneven"])
def test_frames_keep_their_times_and_sound_its_bytes(
    codec: str, rhythm: list[int] | None, make_clip: Make, tmp_path: Path
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", times=rhythm, srt=True), tmp_path / "b.mkv"
    assert enlarge(source, "-o", out, "--codec", codec, "--segment", 5) == 0
    assert times(out) == times(source)
    for kind in ("audio", "subtitle"):
        assert packets(out, kind) == packets(source, kind)
    with av.open(str(out)) as made:
        stream = made.streams.video[0]
        assert (stream.width, stream.height) == (96, 72)
        assert made.metadata["title"] == "Tïtle"
        assert made.streams.audio[0].metadata["language"] == "deu"
    assert not list(tmp_path.glob(".quantsr-*"))


def test_mp4_keeps_any_time_base(make_clip: Make, tmp_path: Path) -> None:
    ticks = [number * 1001 + (number % 3) for number in range(9)]
    source = make_clip(tmp_path / "a.mp4", codec="mpeg4", audio="aac", times=ticks, tick=Fraction(1, 30000))
    out = tmp_path / "b.mp4"
    assert enlarge(source, "-o", out, "--segment", 4) == 0
    assert times(out) == times(source) == [Fraction(tick, 30000) for tick in ticks]
    assert packets(out, "audio") == packets(source, "audio")


def test_matroska_rounds_times_to_milliseconds_without_drift(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(
        tmp_path / "a.mp4", codec="mpeg4", audio=None, tick=Fraction(1, 24000), times=range(0, 30030, 1001)
    )
    assert enlarge(source, "-o", tmp_path / "b.mkv") == 0
    assert "holds milliseconds" in capsys.readouterr().err
    differences = [abs(a - b) for a, b in zip(times(source), times(tmp_path / "b.mkv"), strict=True)]
    assert max(differences) <= Fraction(1, 2000)
    close = make_clip(tmp_path / "c.mp4", codec="mpeg4", audio=None, tick=Fraction(1, 24000), times=[0, 5, 10])
    assert enlarge(close, "-o", tmp_path / "d.mkv") == 4
    assert "within a millisecond" in capsys.readouterr().err


def test_frames_are_those_of_the_network(make_clip: Make, tmp_path: Path) -> None:
    """In FFV1, which loses nothing, with RGB throughout, a frame is the same as the enlarged picture."""
    source, out = make_clip(tmp_path / "a.mkv", format="bgr0", frames=3, audio=None), tmp_path / "b.mkv"
    assert enlarge(source, "-o", out, "--codec", "ffv1") == 0
    model = quantsr.load(MODEL)
    for before, after in zip(pictures(source), pictures(out), strict=True):
        np.testing.assert_array_equal(after, model.upscale(before, "quarter"))


def test_the_best_quality_is_better_than_the_next(make_clip: Make, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=2, audio=None)
    sizes = []
    for crf in (0, 1, 35):
        out = tmp_path / f"{crf}.mkv"
        assert enlarge(source, "-o", out, "--crf", crf) == 0
        sizes.append(out.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


def test_ten_bits_come_from_all_bits(make_clip: Make, tmp_path: Path) -> None:
    """A dark ramp whose steps all lie within a few levels of 8 bits."""
    ramp = np.repeat(np.linspace(2000, 4500, 128).astype(np.uint16)[None, :, None], 32, 0).repeat(3, 2)
    wishes: dict[str, Any] = {"width": 128, "height": 32, "frames": 2, "format": "yuv420p10le", "audio": None}
    source = make_clip(tmp_path / "a.mkv", image=lambda number: ramp, **wishes)
    for codec, kind in (("ffv1", "yuv420p10le"), ("av1", "yuv420p10le")):
        out = tmp_path / f"{codec}.mkv"
        assert enlarge(source, "-o", out, "--codec", codec, "--crf", 4) == 0
        with av.open(str(out)) as made:
            assert next(made.decode(video=0)).format.name == kind
        (luma, *_) = (picture[..., 1] for picture in pictures(out, "rgb48le"))
        assert len(np.unique(luma)) > 25  # 10 in 8 bits
        assert abs(luma.mean() - ramp.mean()) < 128  # half a level of 8 bits: what L1 trains leans a little
    assert enlarge(source, "-o", tmp_path / "c.mkv", "--codec", "vp9") == 4


@pytest.mark.parametrize("colour", [(1, 1, 1, 1), (5, 2, 5, 6), (9, 1, 9, 16)], ids=["709", "601-full", "2020-pq"])
def test_colours_stay(colour: tuple[int, int, int, int], make_clip: Make, tmp_path: Path) -> None:
    red = np.broadcast_to(np.array([200, 60, 30], np.uint8), (36, 48, 3)).copy()
    source = make_clip(tmp_path / "a.mkv", colour=colour, image=lambda number: red, audio=None, frames=2)
    for codec in ("ffv1", "av1"):
        out = tmp_path / f"{codec}.mkv"
        assert enlarge(source, "-o", out, "--codec", codec) == 0
        with av.open(str(source)) as before, av.open(str(out)) as after:
            old, new = (next(container.decode(video=0)) for container in (before, after))
        tags = (new.colorspace, new.color_range, new.color_primaries, new.color_trc)
        assert tags == colour
        planes = [
            np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[4:20, 4:20].astype(int).mean()
            for frame in (old, new)
            for plane in frame.planes
        ]
        assert max(abs(a - b) for a, b in zip(planes[:3], planes[3:], strict=True)) < 2.5


def test_an_unknown_matrix_is_written_down_as_it_was_guessed(make_clip: Make, tmp_path: Path) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=1, audio=None), tmp_path / "b.mkv"
    assert enlarge(source, "-o", out) == 0
    with av.open(str(out)) as made:
        assert next(made.decode(video=0)).colorspace == 6


def test_gray_stays_gray_and_alpha_is_refused(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gray = make_clip(tmp_path / "a.mkv", format="gray", frames=2, audio=None)
    assert enlarge(gray, "-o", tmp_path / "b.mkv") == 0
    (first, _) = pictures(tmp_path / "b.mkv")
    assert (np.ptp(first, axis=2) == 0).all() and np.ptp(first) > 100
    assert enlarge(gray, "-o", tmp_path / "c.mkv", "--codec", "ffv1") == 0
    with av.open(str(tmp_path / "c.mkv")) as made:
        assert next(made.decode(video=0)).format.name == "gray"
    alpha = make_clip(tmp_path / "d.mkv", format="yuva420p", frames=2, audio=None)
    assert enlarge(alpha, "-o", tmp_path / "e.mkv") == 4
    assert "--drop alpha" in capsys.readouterr().err
    assert enlarge(alpha, "-o", tmp_path / "e.mkv", "--drop", "alpha") == 0


@pytest.mark.parametrize("suffix", plan.CONTAINERS)
def test_rotation_and_chapters_stay(suffix: str, make_clip: Make, tmp_path: Path) -> None:
    chapters = [
        {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
        {"id": 2, "start": 200, "end": 440, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
    ]
    source = make_clip(tmp_path / "a.mkv", rotation=90, chapters=chapters, audio="libopus")
    out = tmp_path / f"b{suffix}"
    assert enlarge(source, "-o", out, "--segment", 7) == 0
    with av.open(str(out)) as made:
        assert [chapter["metadata"]["title"] for chapter in made.chapters()] == ["one", "two"]
        assert next(made.decode(video=0)).rotation == 90
    assert [data for data, _ in packets(out, "audio")] == [data for data, _ in packets(source, "audio")]


def test_the_aspect_of_pixels_stays_or_is_refused(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(tmp_path / "a.mp4", codec="mpeg4", frames=2, aspect=Fraction(4, 3), audio=None)
    assert enlarge(source, "-o", tmp_path / "b.mp4") == 0
    with av.open(str(tmp_path / "b.mp4")) as made:
        assert made.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    assert enlarge(source, "-o", tmp_path / "b.mkv") == 4
    assert "pixels of 4:3" in capsys.readouterr().err
    assert enlarge(source, "-o", tmp_path / "b.mkv", "--drop", "aspect") == 0


def test_what_the_container_cannot_hold_is_refused_before_work(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(tmp_path / "a.mkv", srt=True)
    for out, words in (("b.webm", "stream 1 (audio, flac)"), ("b.mp4", "stream 2 (subtitles, srt)")):
        assert enlarge(source, "-o", tmp_path / out) == 4
        assert words in capsys.readouterr().err
        assert not (tmp_path / out).exists()
    assert enlarge(source, "-o", tmp_path / "b.webm", "--drop", "audio,subtitles") == 0
    assert enlarge(source, "-o", tmp_path / "c.webm", "--drop", "audio,subtitles", "--codec", "ffv1") == 4
    assert "refuses ffv1" in capsys.readouterr().err


def test_attachments_are_copied_or_refused_and_covers_refused(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, font = tmp_path / "a.mkv", b"\0\1font" * 99
    with av.open(str(make_clip(tmp_path / "plain.mkv", frames=3))) as plain, av.open(str(source), "w") as out:
        copies = [out.add_stream_from_template(stream, opaque=True) for stream in plain.streams]
        out.add_attachment("font.ttf", "font/ttf", font)
        for packet in plain.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    assert enlarge(source, "-o", tmp_path / "b.mkv") == 0
    with av.open(str(tmp_path / "b.mkv")) as made:
        (attachment,) = made.streams.attachments
        assert (attachment.name, attachment.data) == ("font.ttf", font)
    for suffix in (".webm", ".mp4"):
        assert enlarge(source, "-o", tmp_path / f"c{suffix}", "--drop", "audio") == 4
        assert "--drop attachments" in capsys.readouterr().err
    film = tmp_path / "film.mp4"
    with av.open(str(make_clip(tmp_path / "d.mp4", codec="mpeg4", frames=3, audio=None))) as plain:
        with av.open(str(film), "w") as out:
            video = out.add_stream_from_template(plain.streams.video[0], opaque=True)
            cover = out.add_mux_stream("mjpeg", width=30, height=20)
            cover.disposition, cover.time_base = 1 << 10, Fraction(1, 90000)
            for packet in plain.demux():
                if packet.size:
                    packet.stream = video
                    out.mux(packet)
            packet = av.Packet(jpeg())
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, cover.time_base
            out.mux(packet)
    assert enlarge(film, "-o", tmp_path / "e.mp4") == 4 and "--drop covers" in capsys.readouterr().err
    assert enlarge(film, "-o", tmp_path / "e.mp4", "--drop", "covers") == 0 and len(times(tmp_path / "e.mp4")) == 3


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_two_tracks_of_sound_stay_apart(suffix: str, make_clip: Make, tmp_path: Path) -> None:
    """The second has a packet more, and begins earlier by less than Matroska tells."""
    source, out = tmp_path / "a.mp4", tmp_path / f"b{suffix}"
    with av.open(str(make_clip(tmp_path / "plain.mp4", codec="mpeg4"))) as plain, av.open(str(source), "w") as both:
        film, sound = plain.streams.video[0], plain.streams.audio[0]
        video, first, second = (both.add_stream_from_template(like, opaque=True) for like in (film, sound, sound))
        read = [packet for packet in plain.demux() if packet.size]
        heard = [packet for packet in read if packet.stream is sound]
        for packet in (packet for packet in read if packet.stream is film):
            packet.stream = video
            both.mux(packet)
        for track, some, late in ((second, heard, 0), (first, heard[:-1], 20)):
            for packet in some:
                again = av.Packet(bytes(packet))
                again.pts = again.dts = packet.pts + late
                again.time_base, again.duration, again.stream = packet.time_base, packet.duration, track
                both.mux(again)
    assert enlarge(source, "-o", out) == 0
    for path in (source, out):
        with av.open(str(path)) as container:
            counts = Counter(packet.stream_index for packet in container.demux(audio=(0, 1)) if packet.size)
            assert (counts[1], counts[2]) == (len(heard) - 1, len(heard))


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def test_nothing_is_overwritten(make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=2), tmp_path / "b.mkv"
    out.write_bytes(b"mine")
    assert enlarge(source, "-o", out) == 4 and "--force" in capsys.readouterr().err
    assert enlarge(source, "-o", out, "--resume") == 4 and out.read_bytes() == b"mine"
    assert enlarge(source, "-o", source, "--force") == 4 and "is the input" in capsys.readouterr().err
    assert enlarge(source, "-o", out, "--force") == 0 and len(times(out)) == 2
    assert not list(tmp_path.glob(".quantsr-*"))


def test_what_appears_while_a_film_is_made_is_kept(
    make_clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=2), tmp_path / "b.mkv"
    honest = quantsr.model.Model.upscale

    def slow(self: quantsr.Model, *arguments: Any) -> np.ndarray:
        out.write_bytes(b"kept")
        return honest(self, *arguments)

    monkeypatch.setattr(quantsr.model.Model, "upscale", slow)
    assert enlarge(source, "-o", out) == 4
    assert f"{out} exists; pass --force to overwrite it" in capsys.readouterr().err and out.read_bytes() == b"kept"
    assert enlarge(source, "-o", out, "--resume", "--force") == 0 and times(out) == times(source)


def test_by_default_the_result_is_beside_the_input(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(tmp_path / "a.MP4", codec="mpeg4", audio=None, frames=2)
    out = tmp_path / "a_x2.MP4"
    assert enlarge("-i", source) == 0 and len(times(out)) == 2
    assert enlarge(source, "--resume") == 0 and "was done before" in capsys.readouterr().out
    assert enlarge(source) == 4 and f"{out} exists; pass --force to overwrite it" in capsys.readouterr().err
    make_clip(tmp_path / "b.avi", codec="mpeg4", audio=None, frames=2, tick=Fraction(1, 25))
    assert enlarge(source, "--codec", "ffv1") == 0 and len(times(tmp_path / "a_x2.mkv")) == 2
    (tmp_path / "folder.mkv").mkdir()
    assert enlarge(source, "-o", tmp_path / "folder.mkv", "--force") == 4 and "is a folder" in capsys.readouterr().err
    assert enlarge("-i", tmp_path / "b.avi") == 0 and len(times(tmp_path / "b_x2.mkv")) == 2
    assert enlarge(".") == 4 and "is a folder" in capsys.readouterr().err


def test_progress_for_programs(make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=4)
    assert enlarge(source, "-o", tmp_path / "b.mkv", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["event"] == "begin" and (lines[0]["frames"], lines[0]["width"], lines[0]["height"]) == (4, 96, 72)
    assert [extra["kind"] for extra in lines[0]["copied"]] == ["audio"]
    shares = [line["share"] for line in lines if line["event"] == "progress"]
    assert shares == sorted(shares) and shares[-1] == 1
    assert lines[-1]["event"] == "end" and lines[-1]["state"] == "complete" and lines[-1]["done"] == 4


def test_bad_files_are_named_errors(make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_clip(tmp_path / "a.mkv", frames=60, audio=None).read_bytes()
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "nonsense.mp4").write_bytes(os.urandom(4096))
    (tmp_path / "torn.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\na.mkv\n#EXT-X-ENDLIST\n")
    (tmp_path / "folder.mkv").mkdir()
    make_clip(tmp_path / "sound.mkv", frames=3)
    for name in ("empty.mkv", "nonsense.mp4", "torn.mkv", "list.mkv", "folder.mkv", "missing.mkv"):
        assert enlarge(tmp_path / name, "-o", tmp_path / "out.mkv") == 4, name
        assert name in capsys.readouterr().err
        assert not (tmp_path / "out.mkv").exists() and not list(tmp_path.glob(".quantsr-*"))
    assert enlarge(tmp_path / "torn.mkv", "-o", tmp_path / "out.mkv", "--accept-damage") == 0
    assert 20 < len(times(tmp_path / "out.mkv")) < 60


def test_pictures_are_sent_to_upscale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    for name, words in (("photo.jpg", "`quantsr upscale` enlarges pictures"), ("a.gif", f"wanted {clips.NAMES}")):
        assert enlarge(tmp_path / name, "-o", tmp_path / "out.mkv") == 4
        assert capsys.readouterr().err == f"quantsr: {tmp_path / name}: not a readable video; {words}\n"


# Container, codec, sound, clock. MPEG-TS, MPEG-PS, NUT with sound and what was written live do not tell their end.
KNOW_THEIR_END = [
    (".mkv", "ffv1", "flac", 1000), (".mkv", "mpeg4", None, 1000), (".webm", "libvpx-vp9", "libopus", 1000),
    (".mp4", "mpeg4", "aac", 1000), (".mov", "mjpeg", "pcm_s16le", 1000), (".avi", "ffv1", None, 25),
    (".avi", "mpeg4", "mp2", 25), (".nut", "ffv1", None, 25), (".flv", "flv", "aac", 1000),
    (".asf", "wmv2", "mp2", 1000), (".ivf", "libvpx-vp9", None, 25), (".mxf", "mpeg2video", "pcm_s16le", 25),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "codec", "audio", "clock"), KNOW_THEIR_END)
def test_a_file_cut_short_is_refused(
    suffix: str, codec: str, audio: str | None, clock: int, make_clip: Make, tmp_path: Path
) -> None:
    wishes: dict[str, Any] = {"codec": codec, "audio": audio, "tick": Fraction(1, clock), "frames": 50}
    wishes["format"] = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source, cut = make_clip(tmp_path / f"a{suffix}", **wishes), tmp_path / f"cut{suffix}"
    assert len(scanned(source)) == 50
    whole = source.read_bytes()
    for share in (40, 60, 80, 90, 97):
        cut.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(clips.VideoError):
            pytest.fail(f"{share} % were taken for the whole: {len(scanned(cut))} frames")


def scanned(path: Path) -> Any:
    return clips.scan(path, clips.probe(path), tolerant=False)


def test_an_end_of_zeros_is_refused(make_clip: Make, tmp_path: Path) -> None:
    """As a download leaves it whose space was taken beforehand."""
    source = make_clip(tmp_path / "a.mkv", frames=50, audio=None)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 9 // 10].ljust(len(whole), b"\0"))
    with pytest.raises(clips.VideoError, match="before its head says"):
        scanned(source)


def test_whole_files_are_taken_for_whole(make_clip: Make, tmp_path: Path) -> None:
    late: dict[str, Any] = {"times": [5000 + time for time in UNEVEN], "audio": None}
    assert len(scanned(make_clip(tmp_path / "late.mkv", **late))) == 12
    assert len(scanned(make_clip(tmp_path / "late.flv", codec="flv", **late))) == 12
    gaps: dict[str, Any] = {"codec": "mpeg4", "audio": "mp2", "tick": Fraction(1, 25), "times": [0, 1, 2, 9, 10, 40]}
    assert len(scanned(make_clip(tmp_path / "gaps.avi", **gaps))) == 6  # 41 frames in its head, with those left out
    live = make_clip(tmp_path / "live.mkv", times=UNEVEN)
    data = bytearray(live.read_bytes())
    size = data.index(clips.MATROSKA[1]) + 4
    data[size : size + 8] = bytes.fromhex("01ffffffffffffff")
    live.write_bytes(data)
    assert len(scanned(live)) == 12


def test_wrong_usage(make_clip: Make, tmp_path: Path) -> None:
    for words in (["-o", "b.avi"], ["--crf", "64"], ["--drop", "sound"], ["-i", "b.mkv"], ["c.mkv"]):
        with pytest.raises(SystemExit, match="2"):
            main(["video", str(tmp_path / "a.mkv"), *words])
    with pytest.raises(SystemExit, match="2"):
        main(["video"])
    assert (command.SUFFIXES, command.CODECS) == (tuple(sorted(plan.CONTAINERS)), tuple(sorted(encode.CODECS)))
    assert set(command.DROP) == {*clips.KINDS.values(), "covers", "alpha", "aspect"}


def test_an_output_below_a_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    for inside in ("file/a.mkv", "file/sub/a.mkv"):
        assert enlarge(tmp_path / "a.mkv", "-o", tmp_path / inside) == 2
        assert f"{tmp_path / 'file'} is a file, wanted a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_black_frame_is_never_called_a_success(
    make_clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=6), tmp_path / "b.mkv"
    honest = quantsr.model.Model.upscale
    monkeypatch.setattr(quantsr.model.Model, "upscale", lambda *args, **more: honest(*args, **more) // 9)
    assert enlarge(source, "-o", out) == 4
    assert "frame 0: the result differs" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("kind", "codec", "wanted"),
    [
        ("yuv420p", "av1", "yuv420p"), ("yuv422p10le", "av1", "yuv420p10le"), ("gbrp", "av1", "yuv420p"),
        ("gray", "av1", "yuv420p"), ("yuv444p12le", "av1", "yuv420p10le"), ("nv12", "vp9", "yuv420p"),
        ("yuv422p", "vp9", "yuv422p"), ("yuvj444p", "vp9", "yuv444p"), ("yuv422p10le", "ffv1", "yuv422p10le"),
        ("p010le", "ffv1", "yuv420p10le"), ("rgb24", "ffv1", "bgr0"), ("gbrp12le", "ffv1", "gbrp12le"),
        ("gray10le", "ffv1", "gray10le"), ("yuv411p", "ffv1", "yuv411p"), ("rgb48le", "ffv1", "gbrp16le"),
    ],
)  # fmt: skip
def test_pixels_are_kept_as_well_as_the_encoder_can(kind: str, codec: str, wanted: str) -> None:
    formats = [one.name for one in av.codec.Codec(encode.CODECS[codec].encoder, "w").video_formats or ()]
    tags = colour.Colour.of(av.VideoFrame(64, 64, kind))
    assert encode.nearest(kind, tags, formats, codec) == wanted


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "quantsr", "video", *OPTIONS, *map(str, arguments)]


def killed(words: list[str], segments: int, how: signal.Signals, folder: Path) -> int:
    """Runs it, and sends the signal once so many segments are there. Returns the exit code."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if len(list(folder.glob(".quantsr-*/[0-9]*.mkv"))) >= segments:
                process.send_signal(how)
                break
            time.sleep(0.002)
        process.communicate(timeout=60)
        return process.returncode


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=24, times=[n * 40 + n % 3 for n in range(24)])
    undisturbed, out = tmp_path / "whole.mkv", tmp_path / "b.mkv"
    assert enlarge(source, "-o", undisturbed, "--segment", 4) == 0
    words = command_line(source, "-o", out, "--segment", 4)
    assert killed(words, 1, signal.SIGKILL, tmp_path) == -signal.SIGKILL
    assert not out.exists()
    assert enlarge(source, "-o", out, "--segment", 4) == 4  # neither goes on nor begins again unasked
    assert "--resume" in capsys.readouterr().err
    assert enlarge(source, "-o", out, "--segment", 5, "--resume") == 4
    assert "another --segment" in capsys.readouterr().err
    assert killed([*words, "--resume"], 3, signal.SIGKILL, tmp_path) == -signal.SIGKILL
    assert killed([*words, "--resume"], 5, signal.SIGINT, tmp_path) == 130
    assert not out.exists()
    assert enlarge(source, "-o", out, "--segment", 4, "--resume", "--json") == 0
    begin = json.loads(capsys.readouterr().out.splitlines()[0])
    assert begin["done"] >= 20
    for kind in ("video", "audio"):
        assert packets(out, kind) == packets(undisturbed, kind)
    assert not list(tmp_path.glob(".*"))


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=3, audio=None)
    assert enlarge(source, "-o", tmp_path / "b.mkv") == 0
    assert "frames/s" not in capsys.readouterr().err
    monkeypatch.setattr("quantsr.terminal.HEARTBEAT_SECONDS", 0)
    assert enlarge(source, "-o", tmp_path / "c.mkv") == 0
    assert "3/3 frames, " in capsys.readouterr().err


@pytest.mark.parametrize("how", ["interrupted", "closed pipe"])
def test_a_run_that_is_stopped_tells_no_more_than_that(how: str, make_clip: Make, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=90, width=320, height=240, audio=None)
    words = command_line(source, "-o", tmp_path / "b.mkv", "--json", "--segment", 200)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        while json.loads(process.stdout.readline()).get("frame", 0) < 3:
            pass
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
        told, code = process.stderr.read(), process.wait(60)
    assert (code, told) == {"interrupted": (130, "quantsr: interrupted\n"), "closed pipe": (141, "")}[how]
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("suffix", plan.CONTAINERS)
def test_resume_leaves_a_finished_result_alone(
    suffix: str, make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=6, audio=None), tmp_path / f"b{suffix}"
    assert enlarge(source, "-o", out) == 0
    before, when = out.read_bytes(), out.stat().st_mtime_ns
    capsys.readouterr()
    assert enlarge(source, "-o", out, "--resume") == 0
    assert "96x72  6 frames  was done before" in capsys.readouterr().out
    assert enlarge(source, "-o", out, "--resume", "--json") == 0
    begin, note, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (begin["frames"], begin["done"], note["event"], end["state"], end["done"]) == (6, 6, "note", "complete", 6)
    other = make_clip(tmp_path / "c.mkv", frames=7, audio=None)
    assert enlarge(other, "-o", out, "--resume") == 4
    assert "not the result of this (6 of 7 frames" in capsys.readouterr().err
    assert enlarge(source, "-o", out, "--resume", "-s", "4", "-n", "quantsr-c-x4-w4a4") == 4
    assert "wanted av1 of 192x144); pass --force" in capsys.readouterr().err
    assert out.read_bytes() == before and out.stat().st_mtime_ns == when
    assert not list(tmp_path.glob(".quantsr-*"))


def test_a_run_that_was_killed_after_its_result_was_named_ends_well(
    make_clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=3), tmp_path / "b.mkv"
    with monkeypatch.context() as patch:
        patch.setattr("quantsr.video.job.Job.clear", lambda job: job.leave())
        assert enlarge(source, "-o", out) == 0
    assert list(tmp_path.glob(".quantsr-*"))
    before = out.read_bytes()
    assert enlarge(source, "-o", out, "--resume") == 0
    assert "was done before" in capsys.readouterr().out and out.read_bytes() == before
    assert not list(tmp_path.glob(".quantsr-*"))


@pytest.mark.slow
def test_kills_at_random_moments(make_clip: Make, tmp_path: Path) -> None:
    """Also while segments are written, while all is put together, and while the folder is cleared."""
    source = make_clip(tmp_path / "a.mkv", frames=40, srt=True)
    undisturbed, out = tmp_path / "whole.mkv", tmp_path / "b.mkv"
    assert enlarge(source, "-o", undisturbed, "--segment", 3) == 0
    wanted = [packets(undisturbed, kind) for kind in ("video", "audio", "subtitle")]
    words = [*command_line(source, "-o", out, "--segment", 3, "--resume")]
    start = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    whole = time.monotonic() - start
    chance, before = random.Random(0), 0
    out.unlink()
    for _ in range(60):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.3, 1.05) * whole)
            process.kill()
        done = len(list(tmp_path.glob(".quantsr-*/[0-9]*.mkv")))
        assert done >= before or out.exists()
        if out.exists():
            assert [packets(out, kind) for kind in ("video", "audio", "subtitle")] == wanted
            if list(tmp_path.glob(".quantsr-*")):
                subprocess.run(words, check=True, capture_output=True)
            assert not list(tmp_path.glob(".*"))
            out.unlink()
            done = 0
        before = done
    subprocess.run(words, check=True, capture_output=True)
    assert [packets(out, kind) for kind in ("video", "audio", "subtitle")] == wanted
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
def test_damaged_files_end_in_a_result_or_a_named_error(suffix: str, make_clip: Make, tmp_path: Path) -> None:
    """In one process each, so that a crash or a hang of a decoder shows."""
    audio = {".mkv": "flac", ".mp4": "aac", ".avi": "pcm_s16le"}[suffix]
    whole = make_clip(tmp_path / f"a{suffix}", codec="mpeg4", audio=audio, frames=8, tick=Fraction(1, 25)).read_bytes()
    chance, codes = random.Random(suffix), []
    for number in range(40):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 5, 50))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if number % 4 == 0:
            data = data[: chance.randrange(len(data))]
        bad, out = tmp_path / f"bad{suffix}", tmp_path / f"out{number}.mkv"
        bad.write_bytes(data)
        told = subprocess.run(command_line(bad, "-o", out), capture_output=True, timeout=20)
        codes.append(told.returncode)
        assert told.returncode in (0, 4), told.stderr
        assert out.exists() == (told.returncode == 0)
        assert told.returncode == 0 or b"quantsr: " in told.stderr
    assert {0, 4} == set(codes)


def test_a_full_disk_keeps_what_was_done(
    make_clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_clip(tmp_path / "a.mkv", frames=9), tmp_path / "b.mkv"
    flush, calls = os.fsync, iter(range(100))

    def full(handle: int) -> None:
        if next(calls) == 6:  # two for each file and its folder
            raise OSError(errno.ENOSPC, "No space left on device", str(out))
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert enlarge(source, "-o", out, "--segment", 3) == 5
    assert "No space left" in capsys.readouterr().err and not out.exists()
    monkeypatch.undo()
    other = tmp_path / "b.mp4"  # the segments fit another container
    assert enlarge(source, "-o", other, "--segment", 3, "--resume", "--json", "--drop", "audio") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["done"] == 6
    assert times(other) == times(source) and not list(tmp_path.glob(".*"))


def test_what_has_no_single_meaning_is_refused(
    make_clip: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, encoders in (("two", ["ffv1", "ffv1"]), ("laced", ["mpeg2video"])):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as container:
            streams = [container.add_stream(encoder, rate=25) for encoder in encoders]
            for stream in streams:
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                stream.options = {"flags": "+ildct+ilme"} if name == "laced" else {}
            for stream in streams:
                for number in range(3):
                    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8)).reformat(format="yuv420p")
                    frame.pts = number
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
    for name, words in (("two", "got 2 video streams"), ("laced", "is interlaced")):
        assert enlarge(tmp_path / f"{name}.mkv", "-o", tmp_path / "out.mkv") == 4
        assert words in capsys.readouterr().err
    source = make_clip(tmp_path / "a.mkv", frames=2)
    assert enlarge(source, "-o", tmp_path / "b.mkv", "--memory", "1MB") == 4
    wanted = re.search(r"wanted about (\d+) MiB", capsys.readouterr().err)
    assert wanted is not None
    assert enlarge(source, "-o", tmp_path / "b.mkv", "--memory", f"{wanted[1]}MiB") == 0


def test_memory_does_not_grow_with_the_film(make_clip: Make, tmp_path: Path) -> None:
    """Eighty frames of 640x480 are 74 MB of pixels; each result is 3.7 MB."""
    peaks = []
    for frames in (10, 90):
        source = make_clip(
            tmp_path / f"{frames}.mkv", width=320, height=240, frames=frames, codec="mpeg4", audio=None,
            image=lambda number: np.full((240, 320, 3), number * 2, np.uint8),
        )  # fmt: skip
        words = ["-o", str(tmp_path / f"out{frames}.mkv"), "--codec", "ffv1", "--segment", "10"]
        code = (
            "import resource, sys; from quantsr.cli import main; assert main(sys.argv[1:]) == 0; "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        told = subprocess.run(
            [sys.executable, "-c", code, "video", *OPTIONS, str(source), *words], capture_output=True, check=True
        )
        peaks.append(int(told.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 20


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "quantsr.video.clip")
    assert enlarge(tmp_path / "a.mkv", "-o", tmp_path / "b.mkv") == 2
    assert 'pip install ".[video]"' in capsys.readouterr().err
