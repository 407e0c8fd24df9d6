"""Transparency without rims: opaque stays opaque, hidden colours never show, edges are right on any ground."""

from collections.abc import Callable

import numpy as np
import pytest

import quantsr
from quantsr import images, pixels
from quantsr.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return quantsr.load("quantsr-c-x2-w4a4", threads=1)


def disc(size: int) -> np.ndarray:
    """Antialiased alpha of a disc, uint8 (size, size)."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.rint(np.clip(size * 0.35 - np.hypot(x, y) + 0.5, 0, 1) * 255).astype(np.uint8)


def over(image: np.ndarray, ground: float) -> np.ndarray:
    alpha = image[..., -1:] / 255
    return image[..., :-1] * alpha + ground * (1 - alpha)


@pytest.mark.parametrize("value", [0, 254, 255])
def test_flat_alpha_stays_exactly(model: Model, picture: Callable[..., np.ndarray], value: int) -> None:
    image = np.dstack([picture(20, 150), np.full((20, 150), value, np.uint8)])
    assert (model.upscale(image)[..., 3] == value).all()


def test_opaque_colours_are_those_without_alpha(model: Model, picture: Callable[..., np.ndarray]) -> None:
    image = picture(20, 30)
    opaque = np.dstack([image, np.full((20, 30), 255, np.uint8)])
    np.testing.assert_array_equal(model.upscale(opaque)[..., :3], model.upscale(image))


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (0, 255, 0)], ids=["black", "white", "green"])
def test_hidden_colours_never_show(model: Model, hidden: tuple[int, int, int]) -> None:
    """The result does not depend on what lies under zero alpha."""
    image = np.dstack([np.full((32, 32, 3), (180, 90, 60), np.uint8), disc(32)])
    image[image[..., 3] == 0, :3] = hidden
    result = model.upscale(image)
    visible = result[..., 3] > 0
    assert np.abs(result[visible][:, :3].astype(int) - (180, 90, 60)).max() <= 4


@pytest.mark.parametrize("ground", [0, 255], ids=["on black", "on white"])
def test_no_rim_around_a_cutout(model: Model, ground: int) -> None:
    image = np.dstack([np.full((32, 32, 3), (180, 90, 60), np.uint8), disc(32)])
    image[image[..., 3] == 0, :3] = 255 - ground
    shown = over(model.upscale(image), ground)
    colour = np.array([180, 90, 60])
    assert (shown >= np.minimum(colour, ground) - 4).all() and (shown <= np.maximum(colour, ground) + 4).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
def test_alpha_is_the_networks_within_its_surroundings(model: Model, dtype: type) -> None:
    white = np.iinfo(dtype).max
    alpha = disc(32).astype(dtype) * (white // 255)
    alpha[10:20, 10:20] = white // 2
    image = np.zeros((32, 32, 4), dtype)
    image[..., 3] = alpha
    result = model.upscale(image)[..., 3]
    network, smooth = model.upscale(alpha), images.bicubic(alpha, 2)
    for y in range(32):
        for x in range(32):
            around = alpha[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            here = np.s_[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            low, high = around.min(), around.max()
            expected = np.where(smooth[here] <= low, low, np.where(smooth[here] >= high, high, network[here]))
            np.testing.assert_array_equal(result[here], np.clip(expected, low, high))


def test_no_ghost_beside_an_edge(model: Model) -> None:
    alpha = np.zeros((24, 24), np.uint8)
    alpha[:, 12:] = 255
    result = model.upscale(np.dstack([alpha, alpha]))[..., 1].astype(int)
    assert (np.diff(result, axis=1) >= -4).all() and not result[:, :22].any() and (result[:, 26:] == 255).all()


def test_alpha_in_bands_is_alpha_at_once(monkeypatch: pytest.MonkeyPatch, picture: Callable[..., np.ndarray]) -> None:
    alpha = picture(50, 20)[..., 0]
    results = []
    for band in (7, 64):
        monkeypatch.setattr(pixels, "BAND", band)
        results.append(np.repeat(np.repeat(alpha[::-1], 3, axis=0), 3, axis=1))
        pixels.calm(results[-1], alpha, 3)
    np.testing.assert_array_equal(*results)


def test_gray_goes_in_three_times_and_comes_back_once(picture: Callable[..., np.ndarray]) -> None:
    gray = picture(8, 9)[..., 0]
    floats = pixels.to_network(gray)
    assert floats.shape == (8, 9, 3) and (floats == floats[..., :1]).all()
    np.testing.assert_array_equal(pixels.from_network(floats, gray)[..., 0], gray)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 8), (16, 16)], ids=str)
def test_colours_spread_into_what_is_transparent(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 4), np.uint8)
    assert (pixels.to_network(image) == 0).all()
    image[-1, 0] = (10, 20, 30, 255)
    np.testing.assert_allclose(pixels.to_network(image) * 255, np.broadcast_to([10, 20, 30], (*shape, 3)), atol=1e-4)
