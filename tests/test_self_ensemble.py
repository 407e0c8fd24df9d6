import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from packing.tiny import tiny_model

import quantsr
from quantsr import images, metrics, zoo
from quantsr.engine import Engine, Rectangle, available_isas, rectangles
from quantsr.model import Model
from quantsr.self_ensemble import EIGHT, PLAIN, View, mean

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "tapiola.jpg"


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


def in_parts(engine: Engine, image: np.ndarray, tile: int, views: tuple[View, ...] = EIGHT) -> np.ndarray:
    height, width, channels = image.shape
    out = np.full((height * engine.upscale, width * engine.upscale, channels), np.nan, np.float32)
    for rectangle in rectangles(image.shape, tile):
        out[rectangle.enlarged(engine.upscale)] = mean(engine, image, rectangle, views, lambda count: None)
    return out


def test_eight_views_and_back() -> None:
    image = random_image(3, 5)
    views = {view.of(image).tobytes() for view in EIGHT}
    assert len(views) == 8 and PLAIN in EIGHT
    for view in EIGHT:
        np.testing.assert_array_equal(view.undone(view.of(image)), image)


@pytest.mark.parametrize("view", EIGHT, ids=str)
def test_a_rectangle_is_found_in_every_view(view: View) -> None:
    image = random_image(6, 9)
    rectangle = Rectangle(1, 2, 4, 8)
    top, left, bottom, right = view.place(rectangle, 6, 9)
    np.testing.assert_array_equal(view.of(image)[top:bottom, left:right], view.of(image[1:4, 2:8]))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (13, 22)], ids=str)
def test_it_is_the_mean_of_turned_and_mirrored_pictures(size: tuple[int, int]) -> None:
    engine, image = Engine(tiny_model(upscale=3), threads=1), random_image(*size)
    results = []
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(image[:, ::-1] if mirrored else image, turns)
            result = np.rot90(engine(np.ascontiguousarray(view)), -turns)
            results.append(result[:, ::-1] if mirrored else result)
    np.testing.assert_allclose(in_parts(engine, image, 100), np.mean(results, axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("isa,tile", [("ref", 33), *itertools.product(available_isas()[1:], [7, 16, 33])])
def test_neither_tile_nor_instruction_set_changes_a_bit(isa: str, tile: int) -> None:
    packed, image = tiny_model(upscale=4, channels=32), random_image(34, 45)  # 32: float convolutions compute in cells
    expected = in_parts(Engine(packed, threads=1, isa="ref"), image, 100)
    np.testing.assert_array_equal(in_parts(Engine(packed, threads=2, isa=isa), image, tile), expected)


def test_tiles_of_a_transformer() -> None:
    engine = Engine(zoo.load_packed("quantsr-t-x2-w4a4"), depth="quarter", threads=1)
    image = random_image(27, 121)  # no multiple of a window, and wider than two halos
    np.testing.assert_array_equal(in_parts(engine, image, 41), in_parts(engine, image, 200))


def test_a_single_view_is_the_engine_alone() -> None:
    engine, image = Engine(tiny_model(upscale=3), threads=1), random_image(12, 20)
    np.testing.assert_array_equal(in_parts(engine, image, 8, (PLAIN,)), engine(image))


def test_it_is_nearer_to_the_photograph() -> None:
    hr = images.crop_to_multiple(images.read(PHOTO), 4)  # all of it: parts differ by more than is gained
    lr = images.downscale(hr, 4)
    plain, mean = (quantsr.load("quantsr-c-x4-w2a2", threads=1, tta=tta).upscale(lr) for tta in (False, True))
    assert metrics.psnr(mean, hr, 4) > metrics.psnr(plain, hr, 4) + 0.01


@pytest.mark.parametrize("channels", [(), (4,)], ids=["gray", "rgba"])
def test_progress_and_memory(channels: tuple[int, ...]) -> None:
    model = Model(tiny_model(upscale=3), threads=1, tta=True)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, *channels), dtype=np.uint8)
    shares: list[float] = []
    result = model.upscale(image, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert len(set(shares) - {0}) == 8  # of a picture that is one tile, after each view
    np.testing.assert_array_equal(model.upscale(image, memory=2 << 20), result)


@pytest.mark.parametrize("tta", [False, True], ids=["plain", "eight views"])
def test_no_more_is_held_than_is_counted(tta: bool) -> None:
    """`Engine.tile_within` counts a part, what goes into it, and both once more."""
    model, tile = Model(tiny_model(upscale=3), threads=1, tta=tta), 64
    image = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    engine = model.engine("full")
    side = tile + 2 * engine.halo + 2 * engine.grid
    tracemalloc.start()
    result = model.upscale(image, tile=tile)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * image.size + result.nbytes + 2 * 4 * 3 * side**2 * (1 + model.scale**2)
