import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantsr import images
from quantsr.data import patches
from quantsr.data.patches import PatchSampler, Photo, load_photos

# ---- sampling


def stored(folder: Path, name: str, hr: np.ndarray, lr: np.ndarray) -> Photo:
    """A photo of the cache, from its pixels."""
    files = folder / f"{name}.hr.npy", folder / f"{name}.lr.npy"
    for file, pixels in zip(files, (hr, lr), strict=True):
        np.save(file, pixels.astype(np.uint8))
    return Photo(name, 0, 1.0, *files)


def places(folder: Path, height: int, width: int, upscale: int) -> Photo:
    """A photo of that many LR pixels whose HR tells row and column of each pixel, and the place within an LR pixel."""
    y, x = np.mgrid[: height * upscale, : width * upscale]
    hr = np.stack([y, x, y % upscale * upscale + x % upscale], axis=-1).astype(np.uint8)
    return stored(folder, "places", hr, images.downscale(hr, upscale))


def upright(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A pair (P, P, 3), (P*s, P*s, 3) of `places`, turned back: rows increase downwards and columns to the right."""
    for turn in range(8):
        lr, hr = (np.rot90(side[:, ::-1] if turn >= 4 else side, -(turn % 4)) for side in pair)
        if hr[1, 0, 0] > hr[0, 0, 0] and hr[0, 1, 1] > hr[0, 0, 1]:
            return lr, hr
    raise AssertionError("not a patch of `places`")


def drawn(sampler: PatchSampler, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Its pairs, uint8 (P, P, 3) and (P*s, P*s, 3), turned back."""
    batches = ([(side * 255).round().byte().permute(0, 2, 3, 1).numpy() for side in sampler(i)] for i in range(steps))
    return [upright(pair) for lr, hr in batches for pair in zip(lr, hr, strict=True)]


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("augment", [("turns",), ("turns", "phases")], ids=" ".join)
def test_lr_is_the_benchmarks_of_hr(tmp_path: Path, upscale: int, augment: tuple[str, ...]) -> None:
    photo = places(tmp_path, 23, 31, upscale)
    sampler = PatchSampler([photo], upscale=upscale, patch=6, batch=16, seed=0, augment=augment)
    beyond = 8 * upscale
    mirrored = np.pad(photo.hr, [(beyond, beyond), (beyond, beyond), (0, 0)], mode="symmetric")
    phases = set()
    for lr, hr in drawn(sampler, 12):
        y, x = (int(place) for place in hr[0, 0, :2])
        assert np.array_equal(hr, photo.hr[y : y + 6 * upscale, x : x + 6 * upscale])
        phases.add((y % upscale, x % upscale))
        whole = images.downscale(mirrored[y % upscale :, x % upscale :], upscale)
        assert np.array_equal(lr, whole[8 + y // upscale :, 8 + x // upscale :][:6, :6])
    assert len(phases) == (upscale**2 if "phases" in augment else 1)


def test_all_eight_turns_occur(tmp_path: Path) -> None:
    sampler = PatchSampler([places(tmp_path, 23, 31, 2)], upscale=2, patch=6, batch=64, seed=0)
    hr = (sampler(0)[1] * 255).round().int()
    corners = hr[:, :2, [0, 0, -1, -1], [0, -1, 0, -1]]  # rows and columns at the corners
    first = corners == corners.amin(dim=2, keepdim=True)
    assert len({tuple(sides.flatten().tolist()) for sides in first}) == 8


def test_batches_are_floats_of_the_pictures_own_values(tmp_path: Path) -> None:
    sampler = PatchSampler([places(tmp_path, 23, 31, 2)], upscale=2, patch=6, batch=4, seed=0)
    for tensor in sampler(0):
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        codes = (tensor.double() * 255).round()
        assert torch.equal(tensor, codes.float() / 255)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    photo = places(tmp_path, 23, 31, 2)
    one, two = (PatchSampler([photo], upscale=2, patch=6, batch=4, seed=5) for _ in range(2))
    forward = {step: one(step) for step in range(6)}
    for step in (5, 0, 3):  # in another order, from another sampler
        assert all(map(torch.equal, forward[step], two(step)))
    assert not torch.equal(forward[0][0], forward[1][0])
    assert not torch.equal(forward[0][0], PatchSampler([photo], upscale=2, patch=6, batch=4, seed=6)(0)[0])


@pytest.mark.parametrize("size", [(6, 6), (7, 11), (13, 6)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("augment", [("turns",), ("turns", "phases")], ids=" ".join)
def test_every_pixel_can_be_drawn(tmp_path: Path, size: tuple[int, int], augment: tuple[str, ...]) -> None:
    sampler = PatchSampler([places(tmp_path, *size, 2)], upscale=2, patch=6, batch=64, seed=0, augment=augment)
    pixels = {tuple(place) for _, hr in drawn(sampler, 12) for place in hr[..., :2].reshape(-1, 2).tolist()}
    assert pixels == {(y, x) for y in range(2 * size[0]) for x in range(2 * size[1])}


def test_detail_is_preferred_and_flat_parts_are_not_forgotten(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    flat = np.full((40, 40, 3), 128, np.uint8)
    photos = [stored(tmp_path, str(i), lr.repeat(2, 0).repeat(2, 1), lr) for i, lr in enumerate((noise, flat))]
    sampler = PatchSampler(photos, upscale=2, patch=8, batch=100, seed=0)
    spread = torch.cat([sampler(step)[0].flatten(1).std(dim=1) for step in range(10)])
    assert 0.005 < float((spread == 0).float().mean()) < 0.1


# ---- loading


def test_photos_come_by_name_with_the_benchmarks_lr(tmp_path: Path, photos: Path) -> None:
    loaded = load_photos(photos, tmp_path / "cache", upscale=3, smallest=8)
    assert [photo.name for photo in loaded] == [f"{index}.png" for index in range(8)]
    for photo in loaded:
        whole = images.read(photos / photo.name)
        assert np.array_equal(photo.lr, images.downscale(whole, 3))
        assert np.array_equal(photo.hr[:63, :72], whole[:63, :72])
        assert photo.lr.shape == (21, 24, 3)


def test_photos_keep_no_file_open(tmp_path: Path, photos: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 10, limits[1]))
    try:
        loaded = load_photos(photos, tmp_path / "cache", upscale=2, smallest=8, shrunk=[0.5])
        PatchSampler(loaded, upscale=2, patch=8, batch=64, seed=0)(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(loaded) == 16


def test_the_cache_is_used_and_follows_changes(
    tmp_path: Path, photos: Path, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, read, count = tmp_path / "cache", images.read, []
    monkeypatch.setattr(images, "read", lambda path: count.append(path.name) or read(path))
    load_photos(photos, cache, upscale=2, smallest=8)
    assert len(count) == 8
    load_photos(photos, cache, upscale=2, smallest=8)
    load_photos(photos, cache, upscale=4, smallest=8)  # another LR of the same HR
    assert len(count) == 8
    Image.fromarray(picture(64, 72, seed=99)).save(photos / "3.png")
    os.utime(photos / "3.png", ns=(1, 1))
    again = load_photos(photos, cache, upscale=2, smallest=8)
    assert count[8:] == ["3.png"]
    assert np.array_equal(again[3].hr, picture(64, 72, seed=99))


def test_photos_come_shrunk_too(tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load_photos(photos, tmp_path / "cache", upscale=2, smallest=16, shrunk=[0.3, 0.5])
    assert [(photo.number, photo.size) for photo in loaded] == [(n, s) for n in range(8) for s in (1.0, 0.5)]
    for whole, half in zip(loaded[::2], loaded[1::2], strict=True):
        assert np.array_equal(half.hr, images.downscale(images.read(photos / whole.name), 2))
        assert np.array_equal(half.lr, images.downscale(half.hr, 2))
    assert caplog.records[0].getMessage() == f"skipped: {photos / '0.png'} at 0.3 of its size: LR side 9 is under 16"
    assert len(caplog.records) == 8
    again = load_photos(photos, tmp_path / "cache", upscale=2, smallest=16, shrunk=[0.5])
    assert all(np.array_equal(a.lr, b.lr) for a, b in zip(loaded, again, strict=True))


def test_photos_come_unpaired_too(tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load_photos(photos, tmp_path / "cache", upscale=4, smallest=10, shrunk=[0.8], unpaired=[0.5, 0.9])
    assert [(photo.number, photo.size, photo.hr is None) for photo in loaded] == [
        (n, size, unpaired)
        for n in range(8)
        for size, unpaired in ((0.9, True), (0.5, True), (1.0, False), (0.8, False))
    ]
    assert not caplog.records
    for large, half in zip(loaded[::4], loaded[1::4], strict=True):
        assert np.array_equal(half.lr, images.downscale(images.read(photos / half.name), 2))
        assert np.array_equal(large.lr, images.shrink(images.read(photos / large.name), 0.9))
    sampler = PatchSampler(loaded, upscale=4, patch=8, batch=4, seed=0)
    lr, hr = sampler(0)
    assert lr.shape == (4, 3, 8, 8) and hr is None
    assert PatchSampler(loaded[2:4], upscale=4, patch=8, batch=4, seed=0)(0)[1] is not None


def test_an_interrupted_cache_write_is_not_taken_for_a_picture(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(file: object, array: np.ndarray) -> None:
        file.write(b"\x93NUMPY half a header")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(patches.np, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            load_photos(photos, tmp_path / "cache", upscale=2, smallest=8)
    assert len(load_photos(photos, tmp_path / "cache", upscale=2, smallest=8)) == 8


def test_unusable_files_are_reported_and_skipped(
    tmp_path: Path, photos: Path, picture: Callable[..., np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:2000])
    Image.fromarray(picture(14, 90)).save(photos / "small.png")
    Image.fromarray(picture(1, 90)).save(photos / "line.png")
    (photos / "notes.txt").write_text("no picture, not looked at")
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "folder.jpg").mkdir()
    with caplog.at_level(logging.WARNING):
        loaded = load_photos(photos, tmp_path / "cache", upscale=2, smallest=8)
    assert [photo.name for photo in loaded] == [f"{index}.png" for index in (0, 1, 2, 4, 5, 6, 7)]
    reported = [record.getMessage() for record in caplog.records]
    assert all(text.startswith("skipped: ") for text in reported)
    for name in ("3.png", "small.png: LR side 7 is under 8", "line.png", "gone.png", "folder.jpg"):
        assert any(name in text for text in reported), name
    assert len(reported) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_a_photo_may_have_any_name(tmp_path: Path, photos: Path) -> None:
    (photos / "0.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    assert len(load_photos(photos, tmp_path / "cache", upscale=2, smallest=8)) == 8


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: no such folder of photographs"):
        load_photos(tmp_path / "missing", tmp_path / "cache", upscale=2, smallest=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no usable photograph, wanted some of \.png"):
        load_photos(tmp_path / "empty", tmp_path / "cache", upscale=2, smallest=8)
