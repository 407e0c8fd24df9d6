import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsr import images, metrics
from quantsr.images import ImageError

# The baseline's PSNR on Y; what the papers print for Set14 takes `bridge` as gray, which networks do not.
BICUBIC = {
    ("Set5", 2): 33.67, ("Set5", 3): 30.40, ("Set5", 4): 28.43,
    ("Set14", 2): 30.33, ("Set14", 3): 27.63, ("Set14", 4): 26.09,
}  # fmt: skip
BICUBIC_GRAY = {2: 30.23, 3: 27.54, 4: 25.99}
BICUBIC_B100 = {2: 29.56, 3: 27.21, 4: 25.96}


# ---- bicubic resizing


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_downscale_gives_the_official_files(data_folder: Path, name: str, upscale: int) -> None:
    folder = data_folder / "benchmarks" / name
    files = sorted((folder / "HR").glob("*.png"))
    assert len(files) == int(name.removeprefix("Set"))
    for file in files:
        official = folder / "LR_bicubic" / f"X{upscale}" / f"{file.stem}x{upscale}.png"
        with Image.open(file) as hr, Image.open(official) as lr:  # as stored: `bridge` has no colour axis
            made = images.downscale(np.array(hr), upscale)
            assert np.count_nonzero(made != np.array(lr)) == 0, file.name


@pytest.mark.parametrize("name,upscale", BICUBIC, ids=lambda v: str(v))
def test_bicubic_scores(data_folder: Path, name: str, upscale: int) -> None:
    scores = _bicubic_scores(data_folder / "benchmarks" / name, upscale)
    assert np.mean(list(scores.values())) == pytest.approx(BICUBIC[name, upscale], abs=0.02)


@pytest.mark.parametrize("upscale", BICUBIC_GRAY)
def test_bicubic_scores_with_bridge_as_gray(data_folder: Path, upscale: int) -> None:
    folder = data_folder / "benchmarks" / "Set14"
    scores = _bicubic_scores(folder, upscale)
    with Image.open(folder / "HR" / "bridge.png") as image:
        hr = images.crop_to_multiple(np.array(image), upscale)
    assert hr.ndim == 2
    inner = slice(upscale, -upscale)
    sr = images.bicubic(images.downscale(hr, upscale), upscale)
    error = np.mean((sr[inner, inner].astype(float) - hr[inner, inner]) ** 2)
    gray = 10 * math.log10(255**2 / error)
    assert gray == pytest.approx(scores["bridge"] - 1.32, abs=0.01)  # Y squeezes 0..255 to 16..235
    scores["bridge"] = gray
    assert np.mean(list(scores.values())) == pytest.approx(BICUBIC_GRAY[upscale], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("upscale", BICUBIC_B100)
def test_bicubic_scores_on_b100(data_folder: Path, upscale: int) -> None:
    scores = _bicubic_scores(data_folder / "benchmarks" / "B100", upscale)
    assert len(scores) == 100
    assert np.mean(list(scores.values())) == pytest.approx(BICUBIC_B100[upscale], abs=0.02)


def _bicubic_scores(folder: Path, upscale: int) -> dict[str, float]:
    scores = {}
    for file in sorted((folder / "HR").glob("*.png")):
        hr = images.crop_to_multiple(images.read(file), upscale)
        sr = images.bicubic(images.downscale(hr, upscale), upscale)
        scores[file.stem] = metrics.psnr(sr, hr, upscale)
    return scores


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(24, 36), (25, 38), (12, 4), (4, 4)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_resizing_equals_the_definition(size: tuple[int, int], upscale: int) -> None:
    hr = _harsh_picture(*size)
    lr = images.downscale(hr, upscale)
    height, width = size[0] // upscale, size[1] // upscale
    assert lr.tolist() == _by_definition(hr[: height * upscale, : width * upscale], height, width).tolist()
    sr = images.bicubic(lr, upscale)
    assert sr.tolist() == _by_definition(lr, height * upscale, width * upscale).tolist()


@pytest.mark.parametrize("old,new", [(24, 12), (36, 27), (5, 2), (7, 21)])
def test_the_matrix_of_a_resize_is_the_resize(old: int, new: int) -> None:
    column = np.random.default_rng(0).integers(64, 192, (old, 1), dtype=np.uint8)
    wanted = _by_definition(column[..., None], new, 1)[:, 0, 0]
    assert np.abs(images.resize_matrix(old, new) @ column[:, 0] - wanted).max() <= 0.5


def _harsh_picture(height: int, width: int) -> np.ndarray:
    """Noise with runs of 0 and 255, so that the kernel overshoots and results are clipped."""
    noise = np.random.default_rng(1).integers(-128, 384, (height, width, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def _by_definition(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's imresize sample by sample: height first, rounding in between."""
    tall = np.apply_along_axis(lambda column: _resize_line(column.tolist(), height), 0, image)
    return np.apply_along_axis(lambda row: _resize_line(row.tolist(), width), 1, tall)


def _resize_line(line: list[int], size: int) -> list[int]:
    ratio, result = len(line) / size, []
    widen = max(1.0, ratio)
    for i in range(size):
        centre = (i + 0.5) * ratio - 0.5
        taps = range(math.floor(centre - 2 * widen), math.ceil(centre + 2 * widen) + 1)
        weights = [_keys((centre - tap) / widen) for tap in taps]
        total = sum(w / sum(weights) * line[_mirrored(tap, len(line))] for w, tap in zip(weights, taps, strict=True))
        result.append(math.floor(min(max(total, 0), 255) + 0.5))
    return result


def _keys(t: float) -> float:
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0


def _mirrored(index: int, length: int) -> int:
    while not 0 <= index < length:
        index = -1 - index if index < 0 else 2 * length - 1 - index
    return index


def test_a_half_rounds_up_between_the_directions() -> None:
    flat = np.array([[0, 1], [1, 0]], np.uint8)  # columns average to 0.5, which becomes 1 before the rows are taken
    assert images.downscale(flat, 2).tolist() == [[1]]


def test_a_flat_picture_stays_flat() -> None:
    flat = np.full((12, 24, 3), 201, np.uint8)
    assert np.unique(images.downscale(flat, 3)) == np.unique(images.bicubic(flat, 3)) == 201


def test_resizing_treats_channels_apart(picture: Callable[..., np.ndarray]) -> None:
    image = picture(24, 36)
    for channel in range(3):
        assert np.array_equal(images.downscale(image, 3)[..., channel], images.downscale(image[..., channel], 3))


@pytest.mark.parametrize("shape", [(3, 40, 3), (40, 3, 3)], ids=str)
def test_an_image_smaller_than_the_factor_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ImageError, match=f"got an image of {shape[1]}x{shape[0]}, wanted at least 4x4"):
        images.downscale(np.zeros(shape, np.uint8), 4)


def test_crop_keeps_the_top_left(picture: Callable[..., np.ndarray]) -> None:
    image = picture(14, 19)
    assert np.array_equal(images.crop_to_multiple(image, 4), image[:12, :16])


# ---- conversions


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uint8_survives_the_way_to_float_and_back(dtype: type) -> None:
    every = np.arange(256, dtype=np.uint8)
    values = images.to_float(every)
    assert values.dtype == np.float32
    assert values.tolist() == [float(np.float32(code) / np.float32(255)) for code in range(256)]
    assert np.array_equal(images.to_uint8(values.astype(dtype)), every)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_halves_round_to_even(dtype: type) -> None:
    codes = np.arange(255)
    values = ((codes + 0.5) / 255).astype(dtype)
    exact = values * dtype(255) == codes + 0.5
    even = codes + codes % 2
    assert exact.sum() > 50
    assert np.array_equal(images.to_uint8(values[exact]), even[exact])


def test_out_of_range_values_are_clamped() -> None:
    values = np.array([-np.inf, -0.1, -1e-9, 1 + 1e-7, 1.5, np.inf], np.float32)
    assert images.to_uint8(values).tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize(
    "rgb,y",
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
    ids=["black", "white", "red", "green", "blue"],
)
def test_luma(rgb: tuple[int, int, int], y: float) -> None:
    image = np.full((2, 3, 3), rgb, np.uint8)
    result = images.luma(image)
    assert result.shape == (2, 3) and result.dtype == np.float64
    assert result == pytest.approx(y, abs=1e-12)


def test_luma_is_not_rounded() -> None:
    assert images.luma(np.full((1, 1, 3), 1, np.uint8)) == pytest.approx(16 + 219 / 255, abs=1e-12)


# ---- files


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_files_round_trip(tmp_path: Path, picture: Callable[..., np.ndarray], suffix: str) -> None:
    image = picture(9, 14)
    Image.fromarray(image).save(tmp_path / f"a{suffix}")
    assert np.array_equal(images.read(tmp_path / f"a{suffix}"), image)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_keep_shape_and_colour_order(tmp_path: Path, suffix: str) -> None:
    image = np.full((16, 24, 3), (200, 100, 30), np.uint8)
    Image.fromarray(image).save(tmp_path / f"a{suffix}", quality=95)
    result = images.read(tmp_path / f"a{suffix}")
    assert result.shape == image.shape
    assert np.abs(result.astype(int) - image).max() <= 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_and_palette_files_are_read_as_rgb(tmp_path: Path, picture: Callable[..., np.ndarray], mode: str) -> None:
    image = Image.fromarray(picture(9, 14)).convert(mode)
    image.save(tmp_path / "a.png")
    result = images.read(tmp_path / "a.png")
    assert result.shape == (9, 14, 3) and result.dtype == np.uint8
    assert np.array_equal(result, np.array(image.convert("RGB")))
    if mode != "P":
        assert np.array_equal(result[..., 0], result[..., 2])


def test_deep_files_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match=r"deep\.png: got .*, wanted 8-bit"):
        images.read(tmp_path / "deep.png")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9])
def test_truncated_files_are_refused(
    tmp_path: Path, picture: Callable[..., np.ndarray], suffix: str, part: float
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture(40, 50)).save(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ImageError, match=f"a{suffix}: not a readable image"):
        images.read(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames_are_refused(tmp_path: Path, picture: Callable[..., np.ndarray], suffix: str) -> None:
    frames = [Image.fromarray(picture(9, 14, seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=f"a.{suffix}: got an animation of 3 frames, wanted one image"):
        images.read(tmp_path / f"a.{suffix}")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    for name in ("a.png", "folder.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            images.read(tmp_path / name)


def test_a_cameras_mpo_is_one_photograph(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    first, preview = (Image.fromarray(picture(16, 24, seed)) for seed in (0, 1))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview], quality=95)
    assert np.abs(images.read(tmp_path / "a.jpg").astype(int) - picture(16, 24, 0)).mean() < 12
