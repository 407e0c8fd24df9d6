"""How deep a network may be for a batch to end in time."""

import io
import time

import numpy as np
from PIL import Image

from quantsr.engine import MAX_TILE
from quantsr.model import WHOLE_SIDE, Model
from quantsr.photos import Facts, Format, mismatch

SIDE = 128  # input pixels of the picture that is measured
MARGIN = 1.1  # for reading and writing files


def choose_depth(model: Model, facts: list[Facts], kind: Format, seconds: float) -> tuple[str, float]:
    """The deepest network that should do these photographs in `seconds`, and its estimate; else the quickest.

    kind: the format of most results.
    """
    for depth in model.depths:
        estimate = MARGIN * sum(_work(one, model, depth) for one in facts) * seconds_per_pixel(model, depth, kind)
        if estimate <= seconds:
            break
    return depth, estimate


def _work(facts: Facts, model: Model, depth: str) -> float:
    """Input pixels computed, borders of tiles and a second run for alpha counted."""
    pixels: float = facts.width * facts.height
    if max(facts.width, facts.height) > WHOLE_SIDE:
        pixels *= (1 + 2 * model.engine(depth).halo / MAX_TILE) ** 2
    return pixels * (2 if facts.channels in (2, 4) else 1)


def seconds_per_pixel(model: Model, depth: str, kind: Format) -> float:
    """Of an input pixel: network, comparison and encoding, measured once after a warm-up."""
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.sin(y / 3 + x / 7)[..., None] * 60 + np.random.default_rng(0).normal(0, 8, (SIDE, SIDE, 3)) + 128
    picture = np.clip(waves, 0, 255).astype(np.uint8)
    model.upscale(picture[:32, :32], depth)
    model.upscale(picture, depth)
    start = time.perf_counter()
    result = model.upscale(picture, depth)
    mismatch(picture, result, model.scale)
    Image.fromarray(result).save(io.BytesIO(), kind.name, **kind.options)
    return (time.perf_counter() - start) / SIDE**2
