"""How deep a network may be for a batch to end in time."""

import io
import time
from collections.abc import Callable

import numpy as np

from quantsr.engine import MAX_TILE
from quantsr.model import WHOLE_SIDE, Model
from quantsr.photos import Facts, Format, Photo, mismatch
from quantsr.photos.write import LARGE_PIXELS, encode
from quantsr.pixels import Pixels

SIDE = 128  # input pixels of the picture that is measured
MARGIN = 1.2  # for reading files, for the disk, and for large pictures, which leave the caches


def choose_depth(
    model: Model, files: list[tuple[Facts, Format]], seconds: float, quality: int | None = None, tile: int | None = None
) -> tuple[str, float]:
    """The deepest network that should do these photographs in `seconds`, and its estimate; else the quickest.

    files: each photograph with the format of its result. tile: as for `Model.upscale`.
    """
    around = file_seconds(model, files, quality)
    for depth in model.depths:
        network = network_seconds(model, depth) * sum(_work(facts, model, depth, tile) for facts, _ in files)
        estimate = MARGIN * (network + around)
        if estimate <= seconds:
            break
    return depth, estimate


def _work(facts: Facts, model: Model, depth: str, tile: int | None) -> float:
    """Input pixels computed, borders of tiles and a second run for alpha counted."""
    pixels: float = facts.width * facts.height
    if max(facts.width, facts.height) > (WHOLE_SIDE if tile is None else tile):
        pixels *= (1 + 2 * model.engine(depth).halo / (tile or MAX_TILE)) ** 2
    return pixels * (2 if facts.channels in (2, 4) else 1)


def network_seconds(model: Model, depth: str) -> float:
    """Of an input pixel, measured."""
    picture = _picture()
    model.upscale(picture[:32, :32], depth)
    return _measured(lambda: model.upscale(picture, depth)) / SIDE**2


def file_seconds(model: Model, files: list[tuple[Facts, Format]], quality: int | None) -> float:
    """Comparison and encoding of all results. Measured once for each way in which some of them are encoded."""
    picture = _picture()
    result = model.upscale(picture, model.depths[-1])
    comparison = _measured(lambda: mismatch(picture, result, model.scale))
    ways: dict[tuple[str, bool, bool], float] = {}
    total = 0.0
    for facts, kind in files:
        pixels = facts.width * facts.height
        deep, large = kind.deep and facts.bits == 16, pixels * model.scale**2 > LARGE_PIXELS
        way = kind.name, deep, large
        if way not in ways:
            photo = Photo(result.astype(np.uint16) * 257 if deep else result)
            ways[way] = _measured(_encoding(kind, photo, quality, large))
        total += pixels * (comparison + ways[way]) / SIDE**2 * facts.channels / picture.shape[2]
    return total


def _encoding(kind: Format, photo: Photo, quality: int | None, large: bool) -> Callable[[], None]:
    return lambda: encode(io.BytesIO(), kind, photo, quality, large=large)


def _measured(work: Callable[[], object]) -> float:
    """Seconds of the second run."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _picture() -> Pixels:
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.sin(y / 3 + x / 7)[..., None] * 60 + np.random.default_rng(0).normal(0, 8, (SIDE, SIDE, 3)) + 128
    return np.clip(waves, 0, 255).astype(np.uint8)
