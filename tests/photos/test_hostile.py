"""Damaged and lying files: a picture or one named error, never a crash, a hang or a flood of memory."""

import io
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsr import photos, pixels
from quantsr.cli import main
from quantsr.photos import Metadata, Photo, PhotoError

KINDS = ("png", "png16", "jpg", "webp", "tiff", "tiff16", "avif", "bmp", "gif")
SECONDS = 10
Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def sound(picture: Picture) -> dict[str, bytes]:
    """A small sound file of every kind, with metadata."""
    files = {}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    metadata = Metadata(exif.tobytes()[6:], b'<x tiff:Orientation="6"/>', b"profile" * 30, (300, 300))
    for kind in KINDS:
        image = picture(20, 26)
        if kind.endswith("16"):
            image = image.astype(np.uint16) * 257
        if kind in ("png", "webp", "tiff16"):
            image = np.dstack([image, image[..., 0]])
        if kind == "gif":
            file = io.BytesIO()
            Image.fromarray(image).quantize(64).save(file, "GIF")
            files[kind] = file.getvalue()
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a.{kind.removesuffix('16')}")
            photos.write(path, Photo(image, metadata))
            files[kind] = path.read_bytes()
    return files


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers at their limits, cuts, repeats, exchanged parts."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(changed), 400)) if chance.random() < 0.6 else chance.randrange(len(changed))
        length = chance.choice([1, 2, 4, 8, 64])
        how = chance.randrange(7)
        if how == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            changed[at] = chance.randrange(256)
        elif how == 2:
            number = chance.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            changed[at : at + 4] = struct.pack(chance.choice(["<I", ">I"]), number)
        elif how == 3:
            del changed[at + 1 if at == 0 else at :]
        elif how == 4:
            del changed[at : at + length]
        elif how == 5:
            changed[at:at] = changed[at : at + length]
        else:
            other = chance.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
        if not changed:
            break
    return bytes(changed)


def survives(path: Path) -> bool:
    """Whether the file was read; fails for anything but a picture or a PhotoError, and for a hang."""
    start = time.monotonic()
    try:
        facts = photos.probe(path)
        image = photos.read(path).pixels
    except PhotoError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return False
    finally:
        assert time.monotonic() - start < SECONDS
    pixels.check(image)
    assert image.shape[:2] == (facts.height, facts.width)
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(tmp_path: Path, sound: dict[str, bytes], kind: str, count: int) -> None:
    chance = random.Random(f"{kind}{count}")
    path = tmp_path / f"a.{kind.removesuffix('16')}"
    path.write_bytes(sound[kind])
    assert survives(path)
    for index in range(count):
        data = mutated(sound[kind], chance)
        path.write_bytes(data)
        try:
            survives(path)
        except BaseException:
            print(f"mutation {index} of {kind}: {data.hex()}")
            raise


@pytest.mark.filterwarnings("ignore")
def test_a_batch_of_mutated_files_goes_on(
    tmp_path: Path, sound: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(27):
        kind = KINDS[index % len(KINDS)]
        (folder / f"{index:02}.{kind.removesuffix('16')}").write_bytes(mutated(sound[kind], chance))
    (folder / "00 good.png").write_bytes(sound["png"])
    (folder / "99 good.jpg").write_bytes(sound["jpg"])
    options = ["-n", "quantsr-c-x2-w4a4", "--depth", "quarter", "--threads", "1", "--json"]
    assert main(["upscale", str(folder), "-o", str(tmp_path / "out"), *options]) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    status = {Path(row["source"]).name: row for row in rows if row["event"] == "file"}
    assert len(status) == 29
    assert status["00 good.png"]["status"] == status["99 good.jpg"]["status"] == "done"
    for row in status.values():
        assert row["status"] == "done" or Path(row["source"]).name in row["error"]
        assert Path(row["target"]).exists() == (row["status"] == "done")


def lying(kind: str, data: bytearray, side: int) -> None:
    """Makes the head tell of side x side pixels, or the most that it can."""
    if kind == "png":
        struct.pack_into(">II", data, 16, side, side)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif kind == "bmp":
        struct.pack_into("<ii", data, 18, side, side)
    elif kind == "gif":
        struct.pack_into("<HH", data, 6, side, side)
    elif kind == "jpg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    elif kind == "webp":  # with alpha and metadata: the head of all chunks
        at = data.index(b"VP8X") + 12
        data[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    elif kind == "tiff":
        first = struct.unpack_from("<I", data, 4)[0]
        for at in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
            tag = struct.unpack_from("<H", data, at)[0]
            if tag in (256, 257, 278):
                struct.pack_into("<HHII", data, at, tag, 4, 1, side)
    else:
        struct.pack_into(">II", data, data.index(b"ispe") + 8, side, side)


# What is refused only while it is decoded takes the memory of such a picture until then: not tested at 13,000.
LIES = [(kind, side) for kind in ("png", "bmp", "gif", "jpg", "avif") for side in (13_000, 30_000)]
LIES += [(kind, 30_000) for kind in ("webp", "tiff")]


@pytest.mark.parametrize("kind, side", LIES)
def test_a_lying_head_costs_nothing(tmp_path: Path, sound: dict[str, bytes], kind: str, side: int) -> None:
    """Refused within 0.1 s of CPU time and 100 MB, in a process of its own."""
    data = bytearray(sound[kind])
    lying(kind, data, side)
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(data)
    script = f"""
import resource, time
from quantsr import photos
from PIL import Image
Image.init()
def used(): return resource.getrusage(resource.RUSAGE_SELF)
before, start = used(), time.process_time()
try:
    photos.read({str(path)!r})
    print("read")
except photos.PhotoError as error:
    print("refused")
print(time.process_time() - start, used().ru_maxrss - before.ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    verdict, seconds, kilobytes = done.stdout.split()
    assert verdict == "refused" and float(seconds) < 0.1 and int(kilobytes) < 100_000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", [1, 25, 27, 52, 13_000])
def test_an_avif_is_never_stretched(tmp_path: Path, sound: dict[str, bytes], side: int) -> None:
    """The decoder would make of its 26x20 pixels whatever the container tells."""
    data = bytearray(sound["avif"])
    lying("avif", data, side)
    path = tmp_path / "a.avif"
    path.write_bytes(data)
    for look in (photos.probe, photos.read):
        with pytest.raises(PhotoError, match=f"tells of {side}x{side} pixels, its picture has 26x20"):
            look(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (65, 129), (1000, 3)])
def test_honest_avifs_are_read(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size, 77 if mode == "L" else (70, 80, 90, 100)[: len(mode)])
    for name, options in {"a": {}, "b": {"subsampling": "4:4:4", "speed": 10}, "c": {"exif": exif_of_a_turn()}}.items():
        if mode != "L" or name != "b":
            image.save(tmp_path / f"{name}.avif", **options)
            shape = photos.read(tmp_path / f"{name}.avif").pixels.shape[:2]
            assert shape == (size if name == "c" else size[::-1])


def exif_of_a_turn() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_emptiest_honest_jpeg_is_read(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.new(mode, (4000, 3000), 0).save(path, quality=1, optimize=True, progressive=progressive)
    assert photos.read(path).pixels.shape[:2] == (3000, 4000)
    print(f"{4000 * 3000 / path.stat().st_size:.0f} pixels a byte")


def test_out_of_memory_is_one_failed_file(tmp_path: Path, sound: dict[str, bytes]) -> None:
    """Under a limit on its address space, a run ends with a named error for the picture that does not fit."""
    Image.new("RGB", (5000, 5000)).save(tmp_path / "big.png", compress_level=1)
    (tmp_path / "small.png").write_bytes(sound["png"])
    options = ["-n", "quantsr-c-x2-w4a4", "--depth", "quarter", "--threads", "1", "-o", "out", "--tile", "64"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (768 << 20, 768 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "quantsr", "upscale", "big.png", "small.png", *options],
        cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "big.png: not enough memory" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["small_x2.png"]
