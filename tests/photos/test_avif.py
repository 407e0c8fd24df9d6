"""Sizes in an AVIF's container against those of its coded pictures; lies in whole files are in test_hostile.py."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsr import photos
from quantsr.photos import PhotoError
from quantsr.photos.avif import _coded_size

SIDE = 64  # pixels of a tile


def box(name: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + name + data


def full(name: bytes, version: int, *parts: bytes) -> bytes:
    return box(name, bytes([version, 0, 0, 0]), *parts)


def grid(told: int, width: int, height: int) -> bytes:
    """Two by two tiles of 64x64 pixels, of which the container tells `told` x `told`; shown is width x height."""
    tiles, settings = [], b""
    for number in range(4):
        file = io.BytesIO()
        Image.fromarray(np.full((SIDE, SIDE, 3), 60 * number, np.uint8)).save(file, "AVIF")
        single = file.getvalue()
        at = single.index(b"av1C") - 4
        settings = single[at : at + struct.unpack_from(">I", single, at)[0]]
        tiles.append(single[single.index(b"mdat") + 4 :])
    payload = struct.pack(">BBBBHH", 0, 0, 1, 1, width, height)
    sizes = [full(b"ispe", 0, struct.pack(">II", *size)) for size in ((width, height), (told, told))]
    properties = box(b"ipco", *sizes, settings, full(b"pixi", 0, bytes([3, 8, 8, 8])))
    owners = [struct.pack(">HB", 1, 2) + bytes([1, 4])]
    owners += [struct.pack(">HB", item, 3) + bytes([2, 0x83, 4]) for item in range(2, 6)]
    kinds = [(1, b"grid"), *((item, b"av01") for item in range(2, 6))]
    names = [full(b"infe", 2, struct.pack(">HH", item, 0), kind, b"\0") for item, kind in kinds]

    def meta(first: int) -> bytes:
        places = [struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(payload))]
        for item, tile in enumerate(tiles, 2):
            places.append(struct.pack(">HHHHII", item, 0, 0, 1, first, len(tile)))
            first += len(tile)
        return full(
            b"meta", 0,
            full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, struct.pack(">H", 1)),
            full(b"iloc", 1, struct.pack(">HH", 0x4400, len(places)), *places),
            full(b"iinf", 0, struct.pack(">H", len(names)), *names),
            full(b"iref", 0, box(b"dimg", struct.pack(">HH4H", 1, 4, 2, 3, 4, 5))),
            box(b"iprp", properties, full(b"ipma", 0, struct.pack(">I", len(owners)), *owners)),
            box(b"idat", payload),
        )  # fmt: skip

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *tiles)


def test_a_grid_is_read_and_its_tiles_are_not_stretched(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    path.write_bytes(grid(SIDE, 120, 100))
    pixels = photos.read(path).pixels
    assert pixels.shape == (100, 120, 3)
    assert abs(int(pixels[90, 110, 0]) - 180) < 4
    path.write_bytes(grid(128, 256, 256))
    with pytest.raises(PhotoError, match="tells of 128x128 pixels, its picture has 64x64"):
        photos.read(path)


def test_a_sequence_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.avif", save_all=True, append_images=frames[1:])
    with pytest.raises(PhotoError, match="several frames"):
        photos.read(tmp_path / "a.avif")
    data = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(data.replace(b"avis", b"avif").replace(b"moov", b"free"))
    assert photos.read(tmp_path / "b.avif").pixels.shape == (20, 30, 3)  # its first picture
    (tmp_path / "c.avif").write_bytes(data.replace(b"avis", b"avif"))
    with pytest.raises(PhotoError, match=r"sequence|frames"):
        photos.read(tmp_path / "c.avif")


@pytest.mark.parametrize("rate", [24, 30])
def test_the_head_of_a_picture_out_of_a_film(rate: int) -> None:
    """Its sequence header has timing and operating points."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        stream = container.add_stream("libsvtav1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 134, 78, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((78, 134, 3), np.uint8), "rgb24")
        packets = [*stream.encode(frame), *stream.encode(None)]
    assert _coded_size(bytes(packets[0])) == (134, 78)


def bits(*fields: tuple[int, int]) -> bytes:
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


TIMING = [(1, 1), (1, 32), (24, 32), (1, 1), (0b00101, 5), (1, 1), (9, 5), (1, 32), (0, 10)]  # with a decoder's model
POINTS = [(1, 1), (1, 5), (0, 12), (9, 5), (1, 1), (1, 1), (0, 21), (1, 1), (3, 4), (0, 12), (5, 5), (0, 1), (0, 1)]


@pytest.mark.parametrize("timing", [TIMING + POINTS, [(0, 1), (0, 1), (0, 5), (0, 12), (5, 5)]], ids=["all", "none"])
def test_a_sequence_header_with_everything(timing: list[tuple[int, int]]) -> None:
    head = bits((0, 3), (0, 1), (0, 1), *timing, (8, 4), (9, 4), (300 - 1, 9), (700 - 1, 10))
    unit = bytes([1 << 3 | 2, len(head)]) + head
    assert _coded_size(b"\x12\0" + unit) == (300, 700)
    assert _coded_size(bytes([1 << 3 | 4, 0]) + head) == (300, 700)  # with an extension, to the end
    with pytest.raises(ValueError, match="too early"):
        _coded_size(bytes([1 << 3 | 2, 3]) + head[:3])
    with pytest.raises(ValueError, match="no head"):
        _coded_size(b"\x12\0" * 5)
