"""A packed network, ready to upscale images. Never loads torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quantsr import pixels, self_ensemble, zoo
from quantsr.engine import MAX_THREADS, MAX_TILE, Engine, TooLittleMemory, rectangles
from quantsr.packing.program import IMAGE_CHANNELS, PackedModel
from quantsr.pixels import Pixels

WHOLE_SIDE = 640  # LR pixels; a larger picture is tiled to bound memory, with the same result
FLOAT_PIXEL_BYTES = 4 * IMAGE_CHANNELS  # of the picture as a network takes it


class Model:
    """What `quantsr.load` returns. Engines of the depths are built when first used and kept as long as the model.

    threads: 1 to 1024, None for all cores; ValueError otherwise. fast: as for `quantsr.engine.Engine`. tta: the mean of
    eight turned and mirrored views, which takes eight times as long; see `quantsr.self_ensemble`.
    """

    def __init__(self, packed: PackedModel, threads: int | None = None, fast: bool = False, tta: bool = False) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"got {threads} threads, wanted 1 to {MAX_THREADS}")
        self.packed, self.threads, self.fast, self.tta = packed, threads, fast, tta
        # No cache around the method: it would hold the model, and their cycle the engines' buffers.
        self._engines: dict[str, Engine] = {}

    def __repr__(self) -> str:
        bits = "W{weight_bits}A{act_bits}".format(**self.packed.info)
        return f"<quantsr.Model {self.packed.info['name']}: x{self.scale}, {bits}, {'/'.join(self.depths)}>"

    def engine(self, depth: str) -> Engine:
        """The engine of one of `depths`, built when first asked for. Raises ValueError for another depth."""
        if depth not in self.depths:
            raise ValueError(f"got depth {depth!r}, wanted one of {', '.join(self.depths)}")
        if depth not in self._engines:  # no lock, which a forked child might find held for ever: the first one stays
            self._engines.setdefault(depth, Engine(self.packed, depth, self.threads, fast=self.fast))
        return self._engines[depth]

    @property
    def depths(self) -> tuple[str, ...]:
        """The depths that the file holds, deepest first."""
        order = self.packed.info["depths"]
        return tuple(sorted(order, key=lambda depth: len(order[depth]), reverse=True))

    @property
    def info(self) -> dict[str, Any]:
        """Settings and origin of the network; keys as in docs/format.md."""
        return dict(self.packed.info)

    @property
    def scale(self) -> int:
        """How many times larger the result is on each side: 2, 3 or 4."""
        return int(self.packed.info["upscale"])

    def upscale(
        self,
        image: Pixels,
        depth: str = "full",
        tile: int | None = None,
        memory: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Pixels:
        """The image, `scale` times as large on each side, with the same dtype and channels. Any size from 1x1.

        image: uint8 or uint16, (H, W) gray, (H, W, 3) RGB, or (H, W, 2) and (H, W, 4) with straight alpha behind.
        depth: one of `depths`. tile: LR pixels on a side of what is computed at once; it bounds memory and never
        changes the result. memory: bytes that may be taken besides `image` and the result, see `tile_within`; it sets
        the tile. progress: told after each tile, or view of it, the share that is done, 0 to 1; 0 while alpha is
        enlarged. Raises ValueError for another dtype, shape or depth, TooLittleMemory for fewer bytes than the smallest
        tile takes, and MemoryError.
        """
        pixels.check(image)
        if memory is not None:
            tile = min(MAX_TILE if tile is None else tile, self.tile_within(memory, image.shape, image.itemsize, depth))
        result = np.empty((image.shape[0] * self.scale, image.shape[1] * self.scale, *image.shape[2:]), image.dtype)
        if pixels.has_alpha(image):
            beginning = None if progress is None else lambda share: progress(0.0)
            result[..., -1] = self._alpha(image[..., -1], depth, tile, beginning)
        engine = self.engine(depth)
        floats = pixels.to_network(image)
        if tile is None:
            tile = max(image.shape[:2]) if max(image.shape[:2]) <= WHOLE_SIDE else MAX_TILE
        colours = pixels.colours(result)
        views = self_ensemble.EIGHT if self.tta else (self_ensemble.PLAIN,)
        done = 0.0

        def seen(count: float) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done / (colours.shape[0] * colours.shape[1]))

        for rectangle in rectangles(image.shape, tile):
            part = self_ensemble.mean(engine, floats, rectangle, views, seen)
            colours[rectangle.enlarged(self.scale)] = pixels.from_network(part, image)
        return result

    def tile_within(self, memory: int, shape: tuple[int, ...], itemsize: int, depth: str = "full") -> int:
        """The largest tile with which `upscale` takes no more than `memory` bytes besides image and result.

        shape, itemsize: of the image. Raises TooLittleMemory, which tells how much would do.
        """
        height, width, *channels = shape
        taken = height * width * FLOAT_PIXEL_BYTES
        if channels and channels[0] in (2, 4):
            taken += height * width * self.scale**2 * itemsize  # alpha, before it becomes part of the result
        try:
            return self.engine(depth).tile_within(memory - taken)
        except TooLittleMemory as error:
            raise TooLittleMemory(memory + error.lacking, memory) from None

    def _alpha(self, alpha: Pixels, depth: str, tile: int | None, progress: Callable[[float], None] | None) -> Pixels:
        """(H, W) -> (H*scale, W*scale)."""
        if (alpha == alpha[0, 0]).all():
            return np.broadcast_to(alpha[:1, :1], (len(alpha) * self.scale, alpha.shape[1] * self.scale))
        enlarged = self.upscale(np.ascontiguousarray(alpha), depth, tile, progress=progress)
        pixels.calm(enlarged, alpha, self.scale)
        return enlarged


def load(name_or_path: str | Path, threads: int | None = None, fast: bool = False, tta: bool = False) -> Model:
    """A bundled model by name (see `quantsr models`) or a packed file.

    threads, tta: as for `Model`. fast: 8 bits also behind the body, see docs/kernels.md for what it costs and gains; a
    network that cannot is refused when its first engine is built. Raises UnknownModelError, a PackedModelError for a
    file that is not a sound packed model, and ValueError for another number of threads.
    """
    return Model(zoo.load_packed(name_or_path), threads, fast, tta)
