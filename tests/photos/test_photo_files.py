"""What goes in comes out: the table of docs/photos.md, row by row."""

import io
import os
import re
import shlex
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin, TiffImagePlugin

from quantsr import photos
from quantsr.photos import FORMATS, Metadata, Photo, PhotoError, png_metadata
from quantsr.photos import exif as exif_block

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SUFFIXES = [kind.suffixes[0] for kind in FORMATS.values()]
LAYOUTS = {"gray": (), "gray+alpha": (2,), "rgb": (3,), "rgba": (4,)}

Picture = Callable[..., np.ndarray]


def noise(channels: tuple[int, ...], dtype: type, size: tuple[int, int] = (23, 31)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (*size, *channels), dtype)


# ---- pixels


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lossless_formats_keep_every_sample(tmp_path: Path, layout: str, dtype: type, suffix: str) -> None:
    pixels = noise(LAYOUTS[layout], dtype)
    path = tmp_path / f"a{suffix}"
    photos.write(path, Photo(pixels))
    if (layout, dtype, suffix) == ("gray+alpha", np.uint16, ".tif"):  # Pillow cannot read that
        pixels_of = pytest.importorskip("tifffile").imread
        np.testing.assert_array_equal(pixels_of(path), pixels)
        return
    facts = photos.probe(path)
    assert (facts.width, facts.height) == (31, 23)
    assert (facts.channels, facts.bits) == (pixels[0, 0].size, 8 * pixels.itemsize)
    result = photos.read(path).pixels
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_readers_agree_on_16_bits(tmp_path: Path, layout: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = noise(LAYOUTS[layout], np.uint16)
    photos.write(tmp_path / "a.tif", Photo(pixels))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)
    if layout == "gray+alpha":
        return
    for order in "<>":
        for compression in (None, "zlib", "lzw"):
            extra = {"extrasamples": ["unassalpha"]} if layout == "rgba" else {}
            kind = "minisblack" if layout == "gray" else "rgb"
            data = pixels.astype(pixels.dtype.newbyteorder(order))
            if compression == "lzw" and not _has_imagecodecs():
                continue
            tifffile.imwrite(
                tmp_path / "b.tif", data, photometric=kind, byteorder=order, compression=compression, **extra
            )
            np.testing.assert_array_equal(photos.read(tmp_path / "b.tif").pixels, pixels, f"{order}{compression}")


def _has_imagecodecs() -> bool:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("filter_kind", range(5), ids=["none", "sub", "up", "average", "paeth"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_16_bit_png_of_any_filter(tmp_path: Path, layout: str, filter_kind: int) -> None:
    pixels = noise(LAYOUTS[layout], np.uint16, (5, 7))
    (tmp_path / "a.png").write_bytes(plain_png(pixels, filter_kind))
    np.testing.assert_array_equal(photos.read(tmp_path / "a.png").pixels, pixels)


def plain_png(pixels: np.ndarray, filter_kind: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG written sample by sample from the specification."""
    height, width = pixels.shape[:2]
    channels = pixels[0, 0].size
    step = 2 * channels
    raw = pixels.astype(">u2").tobytes()
    lines, above = [], bytes(width * step)
    for y in range(height):
        line = raw[y * width * step : (y + 1) * width * step]
        lines.append(bytes([filter_kind]) + bytes(_filtered(line, above, step, filter_kind)))
        above = line
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _filtered(line: bytes, above: bytes, step: int, kind: int) -> list[int]:
    result = []
    for i, value in enumerate(line):
        a = line[i - step] if i >= step else 0
        b, c = above[i], above[i - step] if i >= step else 0
        p = a + b - c
        paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        result.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
    return result


def test_a_transparent_16_bit_colour(tmp_path: Path) -> None:
    pixels = noise((3,), np.uint16, (4, 5))
    pixels[1, 2] = pixels[3, 3] = (1000, 2000, 3000)
    pixels[0, 0] = (1000, 2000, 3001)
    (tmp_path / "a.png").write_bytes(plain_png(pixels, 0, (b"tRNS", struct.pack(">3H", 1000, 2000, 3000))))
    result = photos.read(tmp_path / "a.png").pixels
    assert result.shape == (4, 5, 4) and np.argwhere(result[..., 3] == 0).tolist() == [[1, 2], [3, 3]]
    np.testing.assert_array_equal(result[..., :3], pixels)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_gray_of_few_bits(tmp_path: Path, depth: int) -> None:
    most, each = 2**depth - 1, 8 // depth
    levels = np.arange(48).reshape(3, 16) % (most + 1)
    lines = b"".join(
        b"\0" + bytes(sum(int(v) << 8 - depth * (i + 1) for i, v in enumerate(part)) for part in row.reshape(-1, each))
        for row in levels
    )
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 3, depth, 0, 0, 0, 0)), chunk(b"tRNS", struct.pack(">H", 1))]
    chunks += [chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    result = photos.read(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(result[..., 0], levels * 255 // most)
    np.testing.assert_array_equal(result[..., 1], np.where(levels == 1, 0, 255))


def test_a_dark_16_bit_picture_stays_dark_and_deep(tmp_path: Path) -> None:
    pixels = noise((3,), np.uint16) % 256
    photos.write(tmp_path / "a.png", Photo(pixels))
    result = photos.read(tmp_path / "a.png").pixels
    assert result.dtype == np.uint16 and result.max() < 256
    np.testing.assert_array_equal(result, pixels)


def test_16_bits_are_rounded_for_formats_of_8(tmp_path: Path) -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    photos.write(tmp_path / "a.bmp", Photo(pixels))
    np.testing.assert_array_equal(photos.read(tmp_path / "a.bmp").pixels, np.rint(pixels / 257))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_takes_what_it_holds(tmp_path: Path, picture: Picture, layout: str, suffix: str) -> None:
    pixels = picture(24, 32)
    pixels = {"gray": pixels[..., 0], "gray+alpha": pixels[..., :2], "rgb": pixels}.get(
        layout, np.dstack([pixels, pixels[..., 0]])
    )
    path, photo = tmp_path / f"a{suffix}", Photo(pixels)
    kind = photos.format_of(path)
    assert kind is not None
    if "alpha" in layout + layout.replace("rgba", "alpha") and not kind.alpha:
        with pytest.raises(PhotoError, match="holds no transparency; choose the format PNG"):
            photos.write(path, photo)
        pixels[..., -1] = 255  # opaque: nothing is lost
    photos.write(path, photo, quality=100)
    result = photos.read(path).pixels
    if not kind.alpha and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if layout.startswith("gray") and result.ndim > 2 and kind.name in ("WEBP", "AVIF"):  # these hold gray as colour
        assert kind.name == "WEBP" or layout == "gray+alpha"
        result = result[..., [0, -1]] if result.shape[-1] == 4 else result[..., 0]
    assert result.shape == pixels.shape
    assert np.abs(result.astype(int) - pixels).mean() < 8  # WebP and AVIF halve the colour's resolution


def test_palettes_and_one_bit(tmp_path: Path, picture: Picture) -> None:
    image = Image.fromarray(picture(20, 30))
    image.quantize(16).save(tmp_path / "p.png")
    result = photos.read(tmp_path / "p.png").pixels
    np.testing.assert_array_equal(result, np.array(image.quantize(16).convert("RGB")))
    image.convert("1").save(tmp_path / "1.png")
    result = photos.read(tmp_path / "1.png").pixels
    assert result.shape == (20, 30) and set(np.unique(result)) == {0, 255}


def test_a_palette_with_a_transparent_entry(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture(20, 30)).quantize(4).save(tmp_path / "p.png", transparency=2)
    result = photos.read(tmp_path / "p.png").pixels
    assert result.shape == (20, 30, 4) and set(np.unique(result[..., 3])) == {0, 255}


def test_cmyk_becomes_srgb_and_its_profile_stays_behind(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    photo = photos.read(tmp_path / "a.jpg")
    assert photo.pixels.shape == (8, 8, 3) and photo.pixels[4, 4, 0] > 200 and photo.pixels[4, 4, 1:].max() < 50


def test_white_is_zero_in_a_16_bit_tiff(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 0
    pixels = noise((), np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo=tags)
    np.testing.assert_array_equal(photos.read(tmp_path / "a.tif").pixels, 65535 - pixels)


def planar_tiff(pixels: np.ndarray) -> bytes:
    """Uncompressed, one strip for each colour."""
    height, width, count = pixels.shape
    planes = [pixels[..., index].tobytes() for index in range(count)]
    size, end = len(planes[0]), 8 + sum(map(len, planes))
    lists = [struct.pack("<3H", *[8 * pixels.itemsize] * 3), struct.pack("<3I", 8, 8 + size, 8 + 2 * size)]
    lists.append(struct.pack("<3I", *[size] * 3))
    at = [end, end + 6, end + 18]
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, at[0]), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, at[1]), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, at[2]), (284, 3, 1, 2)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", end + 30) + b"".join(planes) + b"".join(lists) + directory


def test_colours_in_planes_are_read_right_or_refused(tmp_path: Path) -> None:
    pixels = noise((3,), np.uint8)
    (tmp_path / "8.tif").write_bytes(planar_tiff(pixels))
    np.testing.assert_array_equal(photos.read(tmp_path / "8.tif").pixels, pixels)
    (tmp_path / "16.tif").write_bytes(planar_tiff(pixels.astype("<u2") * 257))
    for look in (photos.read, photos.probe):
        with pytest.raises(PhotoError, match=r"16\.tif: .*16-bit pixels stored as B, G, R"):
            look(tmp_path / "16.tif")


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_other_kinds_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (9, 9)).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match=f"got pixels of mode {mode}, wanted 8- or 16-bit gray or RGB"):
        photos.read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_animations_are_refused(tmp_path: Path, picture: Picture, suffix: str) -> None:
    frames = [Image.fromarray(picture(16, 16, seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    for look in (photos.read, photos.probe):
        with pytest.raises(PhotoError, match=f"a.{suffix}: got several frames or pages, wanted one image; split it"):
            look(tmp_path / f"a.{suffix}")


@pytest.mark.skipif(os.name == "nt", reason="for the shells of others")
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_pages_line_splits_an_animation(tmp_path: Path, picture: Picture, suffix: str) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "photos.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^mkdir frames .*$", page, re.MULTILINE)
    frames = [Image.fromarray(picture(16, 16, seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    line = line.replace("clip.gif", f"a.{suffix}").replace("python", shlex.quote(sys.executable))
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    split = [photos.read(path).pixels for path in sorted((tmp_path / "frames").iterdir())]
    assert len(split) == 3
    if suffix != "gif":  # which has palettes
        np.testing.assert_array_equal(split, [np.array(frame) for frame in frames])


def test_a_film_is_told_of_the_other_command(tmp_path: Path) -> None:
    (tmp_path / "clip.MP4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(100))
    with pytest.raises(PhotoError, match=r"not a readable image; wanted .* or GIF; `quantsr video` enlarges films$"):
        photos.read(tmp_path / "clip.MP4")


def test_too_large_a_picture_is_told_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, 16, 20_000, 20_000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(data)
    for look in (photos.read, photos.probe):
        with pytest.raises(PhotoError, match=r"a\.png: got 400 megapixels, wanted at most 178; cut it"):
            look(path)


def test_a_still_gif_and_a_cameras_mpo(tmp_path: Path, picture: Picture) -> None:
    first, preview = (Image.fromarray(picture(16, 24, seed)) for seed in (0, 1))
    first.quantize(8).save(tmp_path / "a.gif")
    assert photos.read(tmp_path / "a.gif").pixels.shape == (16, 24, 3)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview], quality=95)
    assert np.abs(photos.read(tmp_path / "a.jpg").pixels.astype(int) - picture(16, 24, 0)).mean() < 12


def test_no_other_decoder_is_tried(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="PPM")
    with pytest.raises(PhotoError, match=r"a\.png: not a readable image; wanted a whole PNG, JPEG, .* BMP or GIF$"):
        photos.read(tmp_path / "a.png")


def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path, in_time: None, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for name in ("a.png", "link.png"):
        with pytest.raises(PhotoError, match=rf"{name}: is a pipe, wanted a file$"):
            photos.probe(tmp_path / name)
    with pytest.raises(PhotoError, match="is a device, wanted a file"):
        photos.read(os.devnull)
    facts = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda path, **_: facts)  # a file then, exchanged for a pipe before it was opened
    with pytest.raises(PhotoError, match="is a pipe, wanted a file"):
        photos.read(tmp_path / "a.png")


@pytest.mark.skipif(os.name == "nt", reason="has no /dev/stdin")
def test_a_file_as_standard_input(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.png"
    photos.write(path, Photo(picture(20, 30).astype(np.uint16) * 257))  # opened three times
    script = "from quantsr import photos; print(photos.probe('/dev/stdin'), photos.read('/dev/stdin').pixels.shape)"
    with path.open("rb") as file:
        told = subprocess.run([sys.executable, "-c", script], stdin=file, capture_output=True, text=True, check=True)
    assert "bits=16" in told.stdout and "(20, 30, 3)" in told.stdout


@pytest.mark.parametrize("suffix", [".jfif", ".JPE"])
def test_other_suffixes_of_jpeg(tmp_path: Path, picture: Picture, suffix: str) -> None:
    photos.write(tmp_path / f"a{suffix}", Photo(picture(20, 30)))
    assert photos.read(tmp_path / f"a{suffix}").pixels.shape == (20, 30, 3)


@pytest.mark.parametrize("suffix, side", [("webp", 16384), ("jpg", 65536), ("avif", 65540)])
def test_a_result_too_long_for_its_format_is_refused_before_the_work(suffix: str, side: int) -> None:
    photo = Photo(np.zeros((1, side // 4, 3), np.uint8))
    with pytest.raises(PhotoError, match=f"side of {side} pixels"):
        photos.check_fits(Path(f"a.{suffix}"), photo, 4)
    photos.check_fits(Path("a.png"), photo, 4)


# ---- what travels beside the pixels


def camera_exif(orientation: int = 6) -> bytes:
    """As cameras write it: date, GPS, sizes, a maker note, a thumbnail behind."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = "Maker", "Model", orientation, "2026:01:02 03:04:05"
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA002], inner[0xA003], inner[0x927C] = "2026:01:02 03:04:05", 30, 20, b"maker note" * 9
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (60.0, 10.0, 5.25), "E", (24.0, 50.0, 1.5)
    data = bytearray(exif.tobytes()[6:])
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    struct.pack_into(order + "I", data, first + 2 + 12 * count, len(data))
    start = len(data) + 2 + 24 + 4
    data += struct.pack(order + "H", 2) + struct.pack(order + "HHII", 0x0201, 4, 1, start)
    data += struct.pack(order + "HHII", 0x0202, 4, 1, 9) + struct.pack(order + "I", 0) + b"THUMBNAIL"
    return bytes(data)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:PixelXDimension="30">'
    b"<exif:PixelYDimension>20</exif:PixelYDimension><xmp:Thumbnails><x>abc</x></xmp:Thumbnails>"
    b"<dc:title>\xc3\xa4</dc:title></rdf:Description></x:xmpmeta>"
)
NEW_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="1" exif:PixelXDimension="40">'
    b"<exif:PixelYDimension>60</exif:PixelYDimension><dc:title>\xc3\xa4</dc:title></rdf:Description></x:xmpmeta>"
)


@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_metadata_travels_between_all_formats(tmp_path: Path, picture: Picture, source: str, suffix: str) -> None:
    kept = Metadata(camera_exif(1), XMP.replace(b'n="6"', b'n="1"'), SRGB, (300, 300))
    photos.write(tmp_path / f"a.{source}", Photo(picture(20, 30), kept))
    photo = photos.read(tmp_path / f"a.{source}")
    photos.write(tmp_path / f"b.{suffix}", Photo(picture(60, 40), photo.metadata))
    result = photos.read(tmp_path / f"b.{suffix}").metadata
    assert result.icc == SRGB
    assert result.xmp == NEW_XMP
    exif = Image.Exif()
    exif.load(result.exif)
    assert exif[0x010F] == "Maker" and exif[0x0132] == "2026:01:02 03:04:05"
    inner, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    assert inner[0x9003] == "2026:01:02 03:04:05" and inner[0x927C] == b"maker note" * 9
    assert (inner[0xA002], inner[0xA003]) == (40, 60)
    assert gps[1] == "N" and tuple(map(float, gps[2])) == (60, 10, 5.25)
    assert b"THUMBNAIL" not in (tmp_path / f"b.{suffix}").read_bytes()
    with Image.open(tmp_path / f"b.{suffix}") as image:
        assert image.getexif().get(0x0112, 1) == 1
        if not {source, suffix} & {"webp", "avif"}:  # those hold no resolution but EXIF's
            assert [round(value) for value in image.info["dpi"]] == [300, 300]


def test_exif_changes_in_nothing_but_what_must_change(tmp_path: Path, picture: Picture) -> None:
    """Orientation, two sizes, the link to the thumbnail; every other byte stays."""
    old = camera_exif(6)
    for suffix in ("jpg", "png", "webp"):
        photos.write(tmp_path / f"a.{suffix}", Photo(picture(80, 120), Metadata(exif=old)))
        new = photos.read(tmp_path / f"a.{suffix}").metadata.exif
        assert new == old[: len(new)] or sum(a != b for a, b in zip(old, new, strict=False)) <= 5
        assert len(old) - len(new) == len(b"THUMBNAIL")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:] = (255, 0, 0), (0, 255, 0)  # corners that no turn confuses
    transpose = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # Pillow's undoing of each
    stored = Image.fromarray(upright)
    if transpose is not None:
        stored = stored.transpose(Image.Transpose(transpose))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    photo = photos.read(tmp_path / f"a.{suffix}")
    assert np.abs(photo.pixels.astype(int) - upright).mean() < 6
    facts = photos.probe(tmp_path / f"a.{suffix}")
    assert (facts.width, facts.height) == (24, 16)
    photos.write(tmp_path / f"b.{suffix}", photo)
    again = photos.read(tmp_path / f"b.{suffix}")
    assert np.abs(again.pixels.astype(int) - upright).mean() < 8


def test_orientation_told_by_xmp_alone(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.jpg", xmp=XMP)
    photo = photos.read(tmp_path / "a.jpg")
    assert photo.pixels.shape == (30, 20, 3)
    photos.write(tmp_path / "b.jpg", photo)
    assert photos.read(tmp_path / "b.jpg").pixels.shape == (30, 20, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_gray_profile_travels_with_gray(tmp_path: Path, picture: Picture, suffix: str) -> None:
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    photo = Photo(picture(9, 9)[..., 0], Metadata(icc=profile))
    photos.write(tmp_path / f"a.{suffix}", photo)
    assert photos.read(tmp_path / f"a.{suffix}").metadata.icc == profile
    with pytest.raises(PhotoError, match="holds no gray profile"):
        photos.write(tmp_path / "a.webp", photo)


def test_too_much_for_jpeg_is_refused_before_the_work() -> None:
    photo = Photo(np.zeros((4, 4, 3), np.uint8), Metadata(xmp=bytes(70_000)))
    with pytest.raises(PhotoError, match=r"JPEG holds 64 KiB of XMP, got 700\d\d bytes; use --strip"):
        photos.check_fits(Path("a.jpg"), photo, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cut", range(0, 200, 3))
def test_damaged_exif_does_no_harm(tmp_path: Path, cut: int) -> None:
    exif = bytearray(camera_exif(6))
    exif[cut] ^= 0xFF
    for block in (bytes(exif), bytes(exif[:cut])):
        with io.BytesIO() as file:
            Image.new("RGB", (4, 6)).save(file, "JPEG", exif=b"Exif\0\0" + block)
            (tmp_path / "a.jpg").write_bytes(file.getvalue())
        photo = photos.read(tmp_path / "a.jpg")
        photos.write(tmp_path / "b.jpg", photo)
        assert photos.read(tmp_path / "b.jpg").pixels.shape == photo.pixels.shape  # turned at most once


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "block", [b"garbage " * 3, b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, b"II*\0"], ids=["text", "tags", "head"]
)
def test_a_picture_with_damaged_exif_is_written(tmp_path: Path, picture: Picture, block: bytes, suffix: str) -> None:
    photos.write(tmp_path / f"a{suffix}", Photo(picture(9, 9), Metadata(exif=block, icc=SRGB)))
    result = photos.read(tmp_path / f"a{suffix}")
    assert result.pixels.shape == (9, 9, 3)
    assert suffix == ".bmp" or result.metadata.icc == SRGB
    assert suffix not in (".png", ".jpg") or result.metadata.exif == block


LETTERS = {0x010D: "Akte 7", 0x013B: "Jürgen Groß", 0x8298: "© 2026 Müller"}


def directory(texts: dict[int, str], at: int, pointer: int = 0) -> bytes:
    """Of UTF-8 texts in an EXIF block, at this offset; with a pointer, to the directory behind it."""
    entries, behind = b"", at + 2 + 12 * (len(texts) + bool(pointer)) + 4
    data = b""
    for tag, text in texts.items():
        value = text.encode() + b"\0"
        entries += struct.pack("<HHII", tag, 2, len(value), behind + len(data))
        data += value
    if pointer:
        entries += struct.pack("<HHII", pointer, 4, 1, behind + len(data))
    return struct.pack("<H", len(entries) // 12) + entries + bytes(4) + data


@pytest.mark.parametrize("source", ["jpg", "tif"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_letters_of_exif_stay_as_they_are(tmp_path: Path, source: str, suffix: str) -> None:
    block = b"II*\0\x08\0\0\0" + directory(LETTERS, 8, 0x8769)
    block += directory({0xA430: "Élodie of the mountains"}, len(block))
    photos.write(tmp_path / f"a.{source}", Photo(noise((3,), np.uint8), Metadata(exif=block)))
    photos.write(tmp_path / f"b.{suffix}", photos.read(tmp_path / f"a.{source}"))
    with Image.open(tmp_path / f"b.{suffix}") as image:
        exif = image.getexif()
        assert {tag: exif[tag].encode("latin-1").decode() for tag in LETTERS} == LETTERS
        assert exif.get_ifd(0x8769)[0xA430].encode("latin-1").decode() == "Élodie of the mountains"


def test_exif_of_an_avif_changes_in_its_orientation_alone(tmp_path: Path, picture: Picture) -> None:
    """Notes behind the last entry, and numbers of kinds that Pillow cannot write, stay."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHIf", 0xC7A7, 11, 1, 0.5)
    old = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4) + b"notes of the maker"
    photos.write(tmp_path / "a.avif", Photo(picture(9, 9), Metadata(exif=old)))
    new = photos.read(tmp_path / "a.avif").metadata.exif
    assert new == old[:8] + struct.pack("<H", 1) + entries[12:] + bytes(4 + 12) + b"notes of the maker"


def test_pointers_to_pointers_take_no_time() -> None:
    """Every entry of the first directory leads to one of thousands of entries."""
    count = 5000
    first = 10 + 12 * count + 4
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + count * struct.pack("<HHII", 0x8769, 4, 1, first)
    data += bytes(4) + struct.pack("<H", count) + count * struct.pack("<HHII", 0xA002, 3, 1, 7)
    start = time.process_time()
    result = exif_block.for_result(data, 30, 20)
    assert time.process_time() - start < 5  # of minutes
    assert result.count(struct.pack("<HHII", 0xA002, 3, 1, 30)) == count


def test_openings_of_thumbnails_take_no_time() -> None:
    thumbnail = b"<xmp:Thumbnails>one</xmp:Thumbnails>"
    xmp = b"<a>" + thumbnail + b"<b/>" + thumbnail + b"<xmp:Thumbnails>" * 100_000
    start = time.process_time()
    assert exif_block.xmp_for_result(xmp, 9, 9) == b"<a><b/>" + b"<xmp:Thumbnails>" * 100_000
    assert time.process_time() - start < 5  # of many minutes


def test_xmp_that_is_more_than_a_segment_is_not_promised() -> None:
    """The first part of it is all that is read."""
    xmp = b'<rdf:Description xmpNote:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF" dc:a="b"/>'
    assert exif_block.xmp_for_result(xmp, 9, 9) == b'<rdf:Description dc:a="b"/>'


def test_size_of_a_tiff_turned_by_xmp_alone(tmp_path: Path, picture: Picture) -> None:
    photos.write(tmp_path / "a.tif", Photo(picture(20, 30)))
    with Image.open(tmp_path / "a.tif") as image:
        image.save(tmp_path / "b.tif", tiffinfo={700: XMP})
    assert photos.read(tmp_path / "b.tif").pixels.shape == (30, 20, 3)
    facts = photos.probe(tmp_path / "b.tif")
    assert (facts.width, facts.height) == (20, 30)


def test_a_tiff_with_damaged_exif_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos.write(tmp_path / "a.tif", Photo(noise((3,), np.uint8), Metadata(exif=camera_exif(1))))
    monkeypatch.setattr(Image.Exif, "tobytes", lambda self: abs("text"))  # as Pillow did of a few damaged ones
    assert photos.read(tmp_path / "a.tif").metadata.exif == b""


def test_resolution_that_jpeg_cannot_hold_is_left_out(tmp_path: Path) -> None:
    photo = Photo(noise((3,), np.uint8), Metadata(dpi=(100_000, 100_000)))
    for suffix, wanted in (("jpg", None), ("png", 100_000)):
        photos.write(tmp_path / f"a.{suffix}", photo)
        dpi = photos.read(tmp_path / f"a.{suffix}").metadata.dpi
        assert (dpi and round(dpi[0])) == wanted


def test_a_gray_profile_with_alpha_is_refused_for_avif() -> None:
    photo = Photo(noise((2,), np.uint8), Metadata(icc=SRGB[:16] + b"GRAY" + SRGB[20:]))
    with pytest.raises(PhotoError, match=r"a\.avif: AVIF holds no gray profile"):
        photos.check_fits(Path("a.avif"), photo, 1)


@pytest.mark.parametrize("profile", [SRGB, b"junk" * 50], ids=["of RGB", "damaged"])
def test_cmyk_with_the_profile_of_something_else_is_refused(tmp_path: Path, profile: bytes) -> None:
    Image.new("CMYK", (9, 9)).save(tmp_path / "a.jpg", icc_profile=profile)
    with pytest.raises(PhotoError, match=r"a\.jpg: got CMYK pixels with a profile of something else, wanted one of"):
        photos.read(tmp_path / "a.jpg")


def test_a_bmp_of_16_bits_a_pixel_is_read(tmp_path: Path) -> None:
    head = struct.pack("<2sIII", b"BM", 70 + 4, 0, 66) + struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    (tmp_path / "a.bmp").write_bytes(head + masks + struct.pack("<HH", 0xF800, 0))
    assert photos.read(tmp_path / "a.bmp").pixels.tolist() == [[[255, 0, 0]]]


# ---- metadata of PNGs, wherever it lies


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: bytes, behind: bool, size: tuple[int, int] = (30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(file, "PNG")
    data = file.getvalue()
    at = len(data) - 12 if behind else 33  # before IEND; after IHDR
    return data[:at] + b"".join(chunks) + data[at:]


def raw_profile(block: bytes) -> bytes:
    """As ImageMagick writes it."""
    digits = block.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\nname\n{len(block):8}\n{lines}\n".encode()


TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
TURNED_XMP = b'<x tiff:Orientation="6"/>'
WITH_PREFIX = b"Exif\0\0" + TURNED
EXIF_CHUNKS = {
    "eXIf": chunk(b"eXIf", TURNED),
    "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(WITH_PREFIX)),
    "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(WITH_PREFIX))),
    "APP1": chunk(b"tEXt", b"Raw profile type APP1\0" + raw_profile(WITH_PREFIX)),
}
XMP_CHUNKS = {
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + TURNED_XMP),
    "iTXt compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0name\0" + zlib.compress(TURNED_XMP)),
    "APP1 of XMP": chunk(
        b"tEXt", b"Raw profile type APP1\0" + raw_profile(b"http://ns.adobe.com/xap/1.0/\0" + TURNED_XMP)
    ),
    "zTXt of XMP": chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(raw_profile(TURNED_XMP))),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("kind", EXIF_CHUNKS | XMP_CHUNKS)
def test_png_metadata_is_found(tmp_path: Path, kind: str, behind: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with((EXIF_CHUNKS | XMP_CHUNKS)[kind], behind=behind))
    photo = photos.read(path)
    assert photo.pixels.shape == (30, 20, 3)
    assert (photo.metadata.exif, photo.metadata.xmp) == ((TURNED, b"") if kind in EXIF_CHUNKS else (b"", TURNED_XMP))
    facts = photos.probe(path)
    assert (facts.width, facts.height) == (20, 30)


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG"), (13, None)])
def test_hdr_is_refused(tmp_path: Path, transfer: int, name: str | None) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with(chunk(b"cICP", bytes([9, transfer, 0, 1])), behind=False))
    for look in (photos.probe, photos.read):
        if name is None:
            look(path)
            continue
        with pytest.raises(PhotoError, match=rf"a\.png: got HDR pixels \({name}\), wanted SDR"):
            look(path)


@pytest.mark.parametrize("behind", [False, True])
def test_probing_a_png_decodes_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with(EXIF_CHUNKS["zTXt"], behind=behind, size=(5000, 100)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    assert (photos.probe(path).width, photos.probe(path).height) == (100, 5000)


@pytest.mark.parametrize(
    "data",
    [
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nzz"),
        chunk(b"tEXt", b"Raw profile type exif\0"),
        chunk(b"zTXt", b"Raw profile type exif\0\0junk"),
        chunk(b"eXIf", b""),
        chunk(b"eXIf", b"junk"),
    ],
    ids=["no hex", "empty", "not deflated", "empty eXIf", "junk"],
)
def test_damaged_png_metadata_does_no_harm(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with(data, behind=True))
    assert photos.read(path).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_texts_of_a_png_are_kept(tmp_path: Path, deep: bool, behind: bool) -> None:
    texts = (
        (b"tEXt", b"Title\0A caf\xe9"),
        (b"zTXt", b"Description\0\0" + zlib.compress(b"by the sea")),
        (b"iTXt", "parameters\0\0\0\0\0größer".encode()),
    )
    told = b"".join(chunk(name, data) for name, data in texts)
    path = tmp_path / "a.png"
    path.write_bytes(png_with(told + EXIF_CHUNKS["zTXt"] + XMP_CHUNKS["iTXt"], behind=behind))
    photo = photos.read(path)
    assert photo.metadata.texts == texts
    pixels = photo.pixels.astype(np.uint16) * 257 if deep else photo.pixels
    photos.write(tmp_path / "large.png", replace(photo, pixels=pixels))
    assert photos.read(tmp_path / "large.png").metadata.texts == texts
    with Image.open(tmp_path / "large.png") as image:
        found = {"Title": "A café", "Description": "by the sea", "parameters": "größer"}
        assert found.items() <= image.info.items()
        assert "Raw profile type exif" not in image.info


@pytest.mark.parametrize("comment", ["plain", "größer", "two\nlines"])
@pytest.mark.parametrize("suffix", [".jpg", ".gif"])
def test_a_comment_is_kept(tmp_path: Path, suffix: str, comment: str) -> None:
    for coding in ("utf-8", "latin-1"):
        Image.new("L", (9, 9)).save(tmp_path / f"a{suffix}", comment=comment.encode(coding))
        photo = photos.read(tmp_path / f"a{suffix}")
        photos.write(tmp_path / "large.jpg", photo)
        assert photos.read(tmp_path / "large.jpg").metadata.comment == comment.encode(coding)
        photos.write(tmp_path / "large.png", photo)
        with Image.open(tmp_path / "large.png") as image:
            assert image.info["Comment"] == comment


IPTC = b"\x1c\x02\x78\x00\x0fBoats in Kerala" + b"\x1c\x02\x74\x00\x0b(c) someone"


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_is_kept(tmp_path: Path, suffix: str, odd: bool) -> None:
    records = IPTC + b"\x1c\x02\x05\x00\x02It" * odd
    assert len(records) % 2 == odd
    first = tmp_path / f"a{suffix}"
    photos.write(first, Photo(noise((3,), np.uint8), Metadata(iptc=records)))
    for result in ("large.jpg", "large.tif"):
        photos.write(tmp_path / result, photos.read(first))
        assert photos.read(tmp_path / result).metadata.iptc == records
        with Image.open(tmp_path / result) as image:
            found = IptcImagePlugin.getiptcinfo(image)
            assert found is not None and found[2, 120] == b"Boats in Kerala"
    photos.write(tmp_path / "large.png", photos.read(first))
    assert b"Kerala" not in (tmp_path / "large.png").read_bytes()


@pytest.mark.filterwarnings("error")
def test_iptc_may_run_over_several_segments(tmp_path: Path) -> None:
    records = b"\x1c\x02\x78\x84\0\0\1\x86\xa0" + bytes(range(250)) * 400  # 100,000 bytes
    photos.write(tmp_path / "a.jpg", Photo(noise((3,), np.uint8), Metadata(iptc=records)))
    assert (tmp_path / "a.jpg").read_bytes().count(b"Photoshop 3.0\0") == 2
    assert photos.read(tmp_path / "a.jpg").metadata.iptc == records


@pytest.mark.parametrize("cut", [3, 8, 13, 40])
def test_iptc_that_is_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    content = b"Photoshop 3.0\0" + (struct.pack(">4sHHI", b"8BIM", 0x0404, 0, len(IPTC)) + IPTC)[:cut]
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(content)) + content
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg", extra=segment)
    assert photos.read(tmp_path / "a.jpg").metadata.iptc == b""


def test_iptc_of_a_tiff_may_be_called_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    photos.write(path, Photo(noise((3,), np.uint8), Metadata(iptc=IPTC)))
    data, entry = path.read_bytes(), struct.pack("<HHI", 33723, 7, len(IPTC))
    assert data.count(entry) == 1
    path.write_bytes(data.replace(entry, struct.pack("<HHI", 33723, 4, len(IPTC) // 4)))
    assert photos.read(path).metadata.iptc == IPTC


def test_photoshop_resources_that_are_wrong_afterwards_stay_behind(tmp_path: Path) -> None:
    resources = b"".join(
        struct.pack(">4sHHI", b"8BIM", code, 0, len(data)) + data
        for code, data in ((0x040C, b"a thumbnail!"), (0x0404, IPTC), (0x0425, b"digest of iptc.."))
    )
    content = b"Photoshop 3.0\0" + resources
    Image.fromarray(noise((3,), np.uint8)).save(
        tmp_path / "a.jpg", extra=b"\xff\xed" + struct.pack(">H", 2 + len(content)) + content
    )
    photos.write(tmp_path / "large.jpg", photos.read(tmp_path / "a.jpg"))
    data = (tmp_path / "large.jpg").read_bytes()
    assert IPTC in data and b"thumbnail" not in data and b"digest" not in data


def test_a_bomb_of_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    text = zlib.compress(bytes(40 << 20), 9)
    path.write_bytes(png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + text), behind=True))
    with pytest.raises(PhotoError, match="bytes of text"):
        photos.probe(path)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_damaged_profiles_are_inflated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    inflated = []
    real = png_metadata._inflated
    monkeypatch.setattr(png_metadata, "_inflated", lambda data: (inflated.append(len(data)), real(data))[1])
    head = b"Raw profile type exif\0\0" if name == b"zTXt" else b"XML:com.adobe.xmp\0\1\0\0\0"
    path = tmp_path / "a.png"
    path.write_bytes(png_with(50 * chunk(name, head + zlib.compress(b"no hex")[:-4]), behind=True))
    photos.probe(path)
    assert len(inflated) == 1


def test_a_profile_of_many_lines_takes_little_memory(tmp_path: Path) -> None:
    text = b"\nexif\n 8\n" + b"ab\n" * 5_000_000
    path = tmp_path / "a.png"
    path.write_bytes(png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text, 9)), behind=True))
    tracemalloc.start()
    photos.probe(path)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_too_many_texts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with(3 * chunk(b"tEXt", b"Title\0" + bytes(6 << 20)), behind=True))
    with pytest.raises(PhotoError, match="more than 16777216 bytes of text"):
        photos.probe(path)


# ---- writing


class Stop(Exception):
    """Ends a write."""


@pytest.mark.parametrize("quality", [0, -1, 101, 500])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_quality_out_of_range_is_refused(tmp_path: Path, suffix: str, quality: int) -> None:
    with pytest.raises(ValueError, match=f"got quality {quality}, wanted 1 to 100"):
        photos.write(tmp_path / f"a{suffix}", Photo(noise((3,), np.uint8, (8, 8))), quality=quality)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_can_be_stopped(tmp_path: Path, suffix: str, deep: bool) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    pixels = noise((3,), np.uint16 if deep else np.uint8, (600, 800))
    calls: list[int] = []
    photos.write(tmp_path / f"whole{suffix}", Photo(pixels), proceed=lambda: calls.append(1))
    assert len(calls) > (5 if suffix in (".png", ".jpg") else 0)

    def stop() -> None:
        calls.pop()
        if not calls:
            raise Stop

    with pytest.raises(Stop):
        photos.write(path, Photo(pixels), proceed=stop)
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"a{suffix}", f"whole{suffix}"])
    photos.write(path, Photo(pixels))
    assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)], ids=["L", "LA", "RGB", "RGBA"])
def test_large_pngs_are_written_in_bands(
    tmp_path: Path, channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["quantsr.photos.write"], "LARGE_PIXELS", 301 * 907 - 1)
    pixels = noise(channels, np.uint8, (301, 907))
    pixels[100:200] = 7
    metadata = Metadata(b"", b"<x/>", SRGB, (300, 300))
    photos.write(tmp_path / "large.png", Photo(pixels, metadata))
    read = photos.read(tmp_path / "large.png")
    np.testing.assert_array_equal(read.pixels, pixels)
    assert (read.metadata.xmp, read.metadata.icc) == (b"<x/>", SRGB)


def test_a_large_png_takes_little_memory_beside_its_pixels(tmp_path: Path) -> None:
    """Pillow would first copy 12 megapixels into 48 MB."""
    script = f"""
import resource
import numpy as np
from quantsr import photos
photos.write({str(tmp_path / "a.png")!r}, photos.Photo(np.zeros((8, 8, 3), np.uint8)))
pixels = np.random.default_rng(0).integers(0, 9, (3000, 4000, 3), np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photos.write({str(tmp_path / "b.png")!r}, photos.Photo(pixels))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000
