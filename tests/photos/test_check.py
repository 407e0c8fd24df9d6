"""The check of results: passes what networks make of real photographs, and nothing that is broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quantsr
from quantsr import images, zoo
from quantsr.photos import mismatch

Picture = Callable[..., np.ndarray]
PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "tapiola.jpg"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return images.read(PHOTO)[100:228, 60:220]


@pytest.fixture(scope="module")
def enlarged(photo: np.ndarray) -> np.ndarray:
    return quantsr.load("quantsr-c-x2-w4a4").upscale(photo, "quarter")


@pytest.mark.parametrize("name", zoo.bundled())
def test_every_bundled_model_passes(photo: np.ndarray, name: str) -> None:
    model = quantsr.load(name)
    for depth in model.depths:
        for image in (photo[:64, :64], 255 - photo[40:90, 50:99], photo[:3, :5]):
            assert mismatch(image, model.upscale(image, depth), model.scale) is None, depth


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 5), (16, 16)], ids=str)
def test_tiny_pictures_pass(size: tuple[int, int]) -> None:
    colours = np.array([(255 * (n & 1), 255 * (n >> 1 & 1), 255 * (n >> 2)) for n in range(8)], np.uint8)
    noise = np.random.default_rng(0).integers(0, 2, (8, *size, 3), np.uint8) * np.uint8(255)
    flat = np.broadcast_to(colours[:, None, None], noise.shape)
    for name in zoo.bundled():
        model = quantsr.load(name, threads=1)
        for image in map(np.ascontiguousarray, (*flat, *noise)):
            assert mismatch(image, model.upscale(image, "quarter"), model.scale) is None, (name, image)


def test_a_tiny_picture_may_not_be_black() -> None:
    white = np.full((3, 5, 3), 255, np.uint8)
    assert mismatch(white, np.zeros((12, 20, 3), np.uint8), 4) is not None


def test_bicubic_passes(photo: np.ndarray) -> None:
    assert mismatch(photo, images.bicubic(photo, 4), 4) is None


def broken(name: str, result: np.ndarray) -> np.ndarray:
    result = result.copy()
    tile = np.s_[64:128, 64:128]
    if name == "black":
        result[tile] = 0
    elif name == "repeated":
        result[tile] = result[0:64, 128:192]
    elif name == "shifted":
        result[tile] = np.roll(result, 8, axis=1)[tile]
    elif name == "noise":
        result[tile] = np.random.default_rng(0).integers(0, 256, result[tile].shape)
    elif name == "channels":
        result[tile] = result[tile][..., ::-1]
    elif name == "black whole":
        result[:] = 0
    elif name == "upside down":
        result = result[::-1]
    return result


@pytest.mark.parametrize("name", ["black", "repeated", "shifted", "noise", "channels", "black whole", "upside down"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
def test_broken_results_are_caught(photo: np.ndarray, enlarged: np.ndarray, name: str, dtype: type) -> None:
    assert mismatch(photo, enlarged, 2) is None
    factor = np.iinfo(dtype).max // 255
    wrong = mismatch(photo.astype(dtype) * factor, broken(name, enlarged).astype(dtype) * factor, 2)
    assert wrong is not None and wrong.difference > wrong.allowed
    if "whole" not in name and "down" not in name:
        assert 17 <= wrong.x < 64 and 17 <= wrong.y < 64  # a block of 16 that has a part in 32..63
    assert str(wrong).startswith("the result differs from the input by")


def test_lost_alpha_is_caught_and_hidden_colour_is_free(photo: np.ndarray, enlarged: np.ndarray) -> None:
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, 40:] = 255
    image = np.dstack([photo, alpha])
    result = np.dstack([enlarged, images.bicubic(alpha, 2)])
    result[:, :78, :3] = 7
    assert mismatch(image, result, 2) is None
    result[20:60, 100:140, 3] = 0
    assert mismatch(image, result, 2) is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 3), (16, 33)], ids=str)
def test_any_size(picture: Picture, size: tuple[int, int]) -> None:
    image = picture(*size)
    large = np.array(Image.fromarray(image).resize((size[1] * 3, size[0] * 3), Image.Resampling.NEAREST))
    assert mismatch(image, large, 3) is None
    large[-1, -1] ^= 0x80
    large[-3:, -3:] = 255 - large[-3:, -3:] if size == (1, 1) else large[-3:, -3:]
    assert size != (1, 1) or mismatch(image, large, 3) is not None
    with pytest.raises(ValueError, match="wanted 3 times the sides"):
        mismatch(image, large[:-1], 3)
