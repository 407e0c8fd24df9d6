from collections.abc import Callable

import numpy as np
import pytest

from quantsr import images, metrics

compare = pytest.importorskip("skimage.metrics")

BORDERS = [0, 2, 3, 4]


@pytest.fixture
def pair(picture: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    hr = picture(48, 60)
    noise = np.random.default_rng(0).integers(-25, 26, hr.shape)
    return np.clip(hr + noise, 0, 255).astype(np.uint8), hr


@pytest.mark.parametrize("border", BORDERS)
def test_psnr_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray], border: int) -> None:
    sr, hr = (images.luma(image)[border : 48 - border, border : 60 - border] for image in pair)
    wanted = compare.peak_signal_noise_ratio(hr, sr, data_range=255)
    assert metrics.psnr(*pair, border) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("border", BORDERS)
def test_ssim_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray], border: int) -> None:
    sr, hr = (images.luma(image)[border : 48 - border, border : 60 - border] for image in pair)
    wanted = compare.structural_similarity(
        sr, hr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert 0.2 < wanted < 0.98
    assert metrics.ssim(*pair, border) == pytest.approx(wanted, abs=1e-9)


def test_one_level_of_gray_everywhere() -> None:
    dark, light = (np.full((20, 20, 3), level, np.uint8) for level in (100, 101))
    wanted = 20 * np.log10(255 / (219 / 255))  # one level is 219/255 on Y
    assert metrics.psnr(dark, light, 4) == pytest.approx(wanted, abs=1e-9)


def test_equal_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert metrics.psnr(image, image, 2) == float("inf")
    assert metrics.ssim(image, image, 2) == pytest.approx(1)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_the_border_does_not_count(metric: Callable[..., float], pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = pair
    spoiled = sr.copy()
    spoiled[:4], spoiled[-4:], spoiled[:, :4], spoiled[:, -4:] = 0, 0, 0, 0
    assert metric(spoiled, hr, 4) == metric(sr, hr, 4)
    assert metric(spoiled, hr, 3) < metric(sr, hr, 3)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize(
    "shapes",
    [((20, 20, 3), (20, 24, 3)), ((20, 20), (20, 20)), ((20, 20, 4), (20, 20, 4)), ((8, 40, 3), (8, 40, 3))],
    ids=["unequal", "gray", "four channels", "all border"],
)
def test_what_cannot_be_compared_is_refused(
    metric: Callable[..., float], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match=r"got .*, wanted"):
        metric(*(np.zeros(shape, np.uint8) for shape in shapes), 4)


def test_ssim_needs_room_for_its_window() -> None:
    small = np.zeros((18, 40, 3), np.uint8)
    assert metrics.ssim(small, small, 3) == pytest.approx(1)
    with pytest.raises(ValueError, match="got 32x10 pixels after the border, wanted at least 11x11"):
        metrics.ssim(small, small, 4)


def test_only_8_bit_images_are_scored() -> None:
    image = np.full((20, 20, 3), 0.5)
    with pytest.raises(ValueError, match="wanted uint8"):
        metrics.psnr(image, image, 2)
