import gc
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing.tiny import tiny_model

import quantsr
from quantsr import images, reference, zoo
from quantsr.model import Model
from quantsr.packing import write


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny_model(upscale=3), threads=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (16, 16), (33, 20)], ids=str)
def test_any_size_and_equal_to_the_reference(model: Model, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = model.upscale(image)
    assert result.dtype == np.uint8 and result.shape == (shape[0] * 3, shape[1] * 3, 3)
    expected = reference.run(model.packed.programs["full"], model.packed.tensors, images.to_float(image))
    assert np.mean(result != images.to_uint8(expected)) < 0.01


def test_large_pictures_are_tiled_with_the_same_result(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = model.upscale(image)
    monkeypatch.setattr(quantsr.model, "WHOLE_SIDE", 45)
    monkeypatch.setattr(quantsr.model, "MAX_TILE", 16)
    np.testing.assert_array_equal(model.upscale(image), whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("shape", [(9, 12, 3), (9, 1, 3)], ids=str)
def test_a_child_forked_while_another_thread_builds_can_use_the_model(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    model, image = Model(tiny_model(upscale=3), threads=1), np.zeros(shape, np.uint8)
    expected = model.upscale(image)
    building, done = threading.Event(), threading.Event()
    compiled = quantsr.engine.compiled

    def slow(*arguments: Any) -> Any:
        building.set()
        done.wait()
        return compiled(*arguments)

    monkeypatch.setattr(quantsr.engine, "compiled", slow)
    other = threading.Thread(target=model.upscale, args=(image, "half"))
    other.start()
    building.wait()
    child = os.fork()
    if child == 0:
        quantsr.engine.compiled = compiled
        signal.alarm(10)  # ends the child if it waits for ever
        os._exit(0 if (model.upscale(image) == expected).all() and model.upscale(image, "half").size else 1)
    done.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0


def test_memory_bounds_the_tile_and_never_changes_the_result(model: Model) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    engine = model.engine("full")
    tiles = [engine.tile_within(memory) for memory in (2 << 20, 4 << 20, 1 << 30)]
    assert tiles == sorted(tiles) and tiles[0] < tiles[1] and tiles[2] == quantsr.engine.MAX_TILE
    np.testing.assert_array_equal(model.upscale(image, memory=2 << 20), model.upscale(image))
    with pytest.raises(quantsr.engine.TooLittleMemory) as error:
        model.upscale(image, memory=1000 + image.size * 4)
    assert engine.tile_within(1000 + error.value.lacking) > 0


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 12), np.uint8), ((9, 12, 3), np.uint8), ((9, 12, 4), np.uint16)], ids=str
)
def test_the_memory_that_is_told_suffices(model: Model, shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    with pytest.raises(quantsr.engine.TooLittleMemory, match=r"got 1$") as error:
        model.upscale(image, memory=1)
    (least,) = map(int, re.findall(r"at least (\d+) bytes", str(error.value)))
    assert model.upscale(image, memory=least).shape[0] == 27
    with pytest.raises(quantsr.engine.TooLittleMemory, match=rf"at least {least} .*got {least - 1}$"):
        model.upscale(image, memory=least - 1)


@pytest.mark.parametrize("tile", [0, -1])
@pytest.mark.parametrize("memory", [None, 1 << 30])
def test_a_tile_that_is_none(model: Model, tile: int, memory: int | None) -> None:
    with pytest.raises(ValueError, match=f"wanted a side of at least 1 pixel, got {tile}"):
        model.upscale(np.zeros((9, 9, 3), np.uint8), tile=tile, memory=memory)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_that_no_engine_takes(threads: int) -> None:
    with pytest.raises(ValueError, match=f"got {threads} threads, wanted 1 to 1024"):
        Model(tiny_model(), threads=threads)


def test_progress_of_alpha_and_colours(model: Model) -> None:
    """Told after each tile of either, so that work can be stopped there."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    shares: list[float] = []
    model.upscale(image, tile=10, progress=shares.append)
    assert shares[:6] == [0] * 6 and len(shares) == 12
    assert shares == sorted(shares) and shares[-1] == 1


def test_buffers_go_with_the_model() -> None:
    model = Model(tiny_model(), threads=1)
    model.upscale(np.zeros((8, 8, 3), np.uint8))
    engine = weakref.ref(model.engine("full"))
    assert model.engine("full") is engine()
    gc.disable()  # no cycle may have to be found
    try:
        del model
        assert engine() is None
    finally:
        gc.enable()


def test_a_model_says_what_it_is() -> None:
    assert repr(quantsr.load("quantsr-c-x4-w4a4")) == "<quantsr.Model quantsr-c-x4-w4a4: x4, W4A4, full/half/quarter>"


def test_depths_deepest_first(model: Model) -> None:
    assert model.depths == ("full", "half", "quarter")
    image = np.full((8, 8, 3), 128, np.uint8)
    assert len({model.upscale(image, depth=depth).tobytes() for depth in model.depths}) == 3


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4,), np.uint8), ((4, 4, 1), np.uint8), ((4, 4, 5), np.uint8), ((4, 4, 3), np.float64), ((0, 4, 3), np.uint8)],
    ids=["line", "one channel", "five channels", "float", "empty"],
)
def test_other_arrays_are_refused(model: Model, shape: tuple[int, ...], dtype: type) -> None:
    image = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="wanted uint8 or uint16"):
        model.upscale(image)


def test_unknown_depth_and_model(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted one of full, half, quarter"):
        model.upscale(np.zeros((4, 4, 3), np.uint8), depth="eighth")
    with pytest.raises(zoo.UnknownModelError, match="nothing"):
        quantsr.load("nothing")
    write(tmp_path / "m.safetensors", tiny_model())
    assert quantsr.load(tmp_path / "m.safetensors").info["upscale"] == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)], ids=["gray", "gray+alpha", "rgb", "rgba"])
def test_every_kind_of_image_keeps_its_kind(model: Model, channels: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (9, 12, *channels), dtype)
    result = model.upscale(image)
    assert result.dtype == dtype and result.shape == (27, 36, *channels)
    tiled = model.upscale(image, tile=4)
    np.testing.assert_array_equal(tiled, result)


def test_16_bits_are_those_of_the_network(model: Model) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (9, 12, 3), np.uint16)
    floats = model.engine("full")(images.to_float(image))
    assert np.array_equal(model.upscale(image), np.rint(np.clip(floats, 0, 1) * np.float32(65535)))


def test_a_deep_ramp_keeps_thousands_of_levels() -> None:
    ramp = np.repeat(np.linspace(0, 65535, 512).astype(np.uint16)[None], 16, axis=0)
    result = quantsr.load("quantsr-c-x4-w4a4").upscale(ramp)
    assert result.shape == (64, 2048) and len(np.unique(result)) > 4096


def test_8_and_16_bits_of_one_picture_agree(model: Model, picture: Callable[..., np.ndarray]) -> None:
    image = picture(12, 15)
    deep = model.upscale(image.astype(np.uint16) * 257)
    assert np.abs(deep / 257 - model.upscale(image)).max() < 1.01
