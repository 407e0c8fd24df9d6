"""Training pairs cut from a folder of photographs.

LR is made by the benchmarks' own bicubic from whole photographs, once, and cached as plain arrays, which are mapped
into memory when a patch is cut: with many photographs an open file for each would be too many. The same bicubic may
shrink photographs first: what is smaller has finer detail in each pixel, and is sharper. And what it makes may be LR
without HR, for which a teacher stands in: that is many more pixels than the LR of pairs has. By "phases" LR is made
when a pair is drawn, from HR that begins at any pixel, not at multiples of the upscale alone: at x4 that is sixteen
times as many pairs.
Patches are drawn in proportion to their detail: flat sky teaches nothing. Pair `i` of batch `step` depends on
(seed, step, i) alone, so a resumed run sees exactly what an unbroken one would have seen.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsr import images
from quantsr.data.augment import CHANGES, Change
from quantsr.files import write_atomically
from quantsr.images import UInt8

log = logging.getLogger(__name__)


REACH = 2  # LR pixels to each side from which the bicubic makes one


@dataclass(frozen=True)
class Photo:
    """One training picture in the cache.

    number: its place among the folder's image files, usable or not, so that a split by it outlives a damaged file.
    size: side of HR, or of an unpaired LR, relative to the file's, 1 or less. hr_file: None if unpaired.
    """

    name: str
    number: int
    size: float
    hr_file: Path | None
    lr_file: Path

    @property
    def hr(self) -> UInt8 | None:
        """uint8 (H*s, W*s, 3), either side up to s-1 longer, mapped at each access; None if unpaired."""
        return None if self.hr_file is None else _mapped(self.hr_file)

    @property
    def lr(self) -> UInt8:
        """uint8 (H, W, 3), mapped at each access."""
        return _mapped(self.lr_file)


def load_photos(
    folder: Path,
    cache: Path,
    upscale: int,
    smallest: int,
    shrunk: Sequence[float] = (),
    unpaired: Sequence[float] = (),
) -> list[Photo]:
    """All photographs directly in `folder`, by name, at least `smallest` LR pixels on each side.

    shrunk: sizes, relative to the file's, at which each comes once more; unpaired: sizes at which each also is LR.
    Unreadable files are reported and skipped, those too small too. Raises ValueError if nothing is left.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of photographs")
    cache.mkdir(parents=True, exist_ok=True)
    photos = []
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in images.SUFFIXES)
    sizes = [(size / upscale, size, True) for size in (1.0, *shrunk)] + [(size, size, False) for size in unpaired]
    sizes.sort(reverse=True)
    for number, path in enumerate(files):
        for _, size, paired in sizes:  # if too small at one, then at all after it
            try:
                photo = _load(path, number, size, cache, upscale if paired else None)
            except images.ImageError as error:
                log.warning("skipped: %s", error)
                break
            side = min(photo.lr.shape[:2])
            if side < smallest:
                at = f" at {size:g} of its size" if size < 1 else ""
                log.warning("skipped: %s%s: LR side %d is under %d", path, at, side, smallest)
                break
            photos.append(photo)
    if not photos:
        raise ValueError(f"{folder}: no usable photograph, wanted some of {', '.join(images.SUFFIXES)}")
    return photos


def _load(path: Path, number: int, size: float, cache: Path, upscale: int | None) -> Photo:
    # upscale: None if unpaired
    try:
        stat = path.stat()
    except OSError as error:  # a link to nowhere
        raise images.ImageError(f"{path}: {error.strerror}") from error
    identity = os.fsencode(path.resolve()) + f":{stat.st_size}:{stat.st_mtime_ns}".encode()
    key = hashlib.sha256(identity).hexdigest()[:16]
    whole = hr = _cached(cache / f"{key}.npy", lambda: images.read(path))
    if size < 1:
        key = f"{key}.{size:g}"
        hr = _cached(cache / f"{key}.npy", lambda: images.shrink(_mapped(whole), size))
    if upscale is None:
        return Photo(path.name, number, size, None, hr)
    height, width = _mapped(hr).shape[:2]
    if min(height, width) < upscale:
        raise images.ImageError(f"{path}: got {width}x{height} pixels, wanted at least {upscale}x{upscale}")
    lr = _cached(cache / f"{key}.x{upscale}.npy", lambda: images.downscale(_mapped(hr), upscale))
    return Photo(path.name, number, size, hr, lr)


def _cached(path: Path, make: Callable[[], UInt8]) -> Path:
    if not path.exists():
        _save(path, make())
    return path


def _mapped(path: Path) -> UInt8:
    return np.load(path, mmap_mode="r")


def _save(path: Path, array: UInt8) -> None:
    encoded = io.BytesIO()
    np.save(encoded, array)
    write_atomically(path, encoded.getbuffer())


class PatchSampler:
    """Draws batches of augmented LR/HR patch pairs, or of LR patches alone if some photographs are unpaired.

    patch: LR pixels on a side. batch: patches per batch. seed: of the whole run. augment: some of AUGMENTATIONS.
    """

    def __init__(
        self,
        photos: list[Photo],
        *,
        upscale: int,
        patch: int,
        batch: int,
        seed: int,
        augment: Collection[str] = ("turns",),
    ) -> None:
        self.photos, self.upscale, self.patch, self.batch, self.seed = photos, upscale, patch, batch, seed
        self.augment = augment
        self.paired = all(photo.hr_file is not None for photo in photos)
        tables = [_detail(photo.lr, patch) for photo in photos]
        self._cells = np.concatenate(
            [np.insert(cells, 0, index, axis=1) for index, (cells, _) in enumerate(tables)]
        )  # (cells, 3): photo, y, x
        weights = np.concatenate([energy for _, energy in tables])
        weights += 0.05 * weights.mean()  # smooth gradients must not be forgotten altogether
        self._cumulative = np.cumsum(weights / weights.sum())

    def __call__(self, step: int, share: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Batch of a step: lr float32 (N, 3, P, P) and hr float32 (N, 3, P*s, P*s) or None, RGB in [0, 1].

        share: which of the batch's pairs; several processes split a batch.
        """
        drawn = [self._draw(np.random.default_rng((self.seed, step, index))) for index in range(self.batch)[share]]
        lr = _tensor([lr for lr, _ in drawn])
        return lr, _tensor([hr for _, hr in drawn if hr is not None]) if self.paired else None

    def _draw(self, rng: np.random.Generator) -> tuple[UInt8, UInt8 | None]:
        cell = min(int(np.searchsorted(self._cumulative, rng.random())), len(self._cells) - 1)
        index, *corner = self._cells[cell]
        photo = self.photos[index]
        hr = photo.hr
        if hr is not None and "phases" in self.augment:
            lr, hr = self._pair(hr, self._first(corner, hr, self.upscale, rng))
        else:
            lr, hr = self._cut(photo.lr, hr, self._first(corner, photo.lr, 1, rng))
        changes = [change(rng) for name, change in CHANGES.items() if name in self.augment]
        return _changed(lr, changes), None if hr is None else _changed(hr, changes)

    def _first(self, corner: Sequence[int], image: UInt8, unit: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Row and column where a patch from a cell begins, in an image of `unit` pixels for each of LR."""
        return tuple(
            min(first * unit + int(rng.integers(_stride(self.patch) * unit)), side - self.patch * unit)
            for first, side in zip(corner, image.shape, strict=False)
        )

    def _cut(self, lr: UInt8, hr: UInt8 | None, first: tuple[int, ...]) -> tuple[UInt8, UInt8 | None]:
        (y, x), size, s = first, self.patch, self.upscale
        cut = None if hr is None else hr[y * s : (y + size) * s, x * s : (x + size) * s]
        return lr[y : y + size, x : x + size], cut

    def _pair(self, hr: UInt8, first: tuple[int, ...]) -> tuple[UInt8, UInt8]:
        """The pair whose HR begins at a row and column; beyond the photograph HR is mirrored."""
        margin, last = REACH * self.upscale, tuple(v + self.patch * self.upscale for v in first)
        rows, columns = (slice(max(a - margin, 0), b + margin) for a, b in zip(first, last, strict=True))
        missing = [
            (max(margin - a, 0), max(b + margin - side, 0)) for a, b, side in zip(first, last, hr.shape, strict=False)
        ]
        window = np.pad(hr[rows, columns], [*missing, (0, 0)], mode="symmetric")
        lr = images.downscale(window, self.upscale)
        return lr[REACH:-REACH, REACH:-REACH], window[margin:-margin, margin:-margin]


def _stride(patch: int) -> int:
    return max(1, patch // 4)


def _detail(lr: UInt8, patch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Top-left corners (cells, 2) on a grid of a quarter patch, and the mean gradient magnitude of each patch."""
    gray = lr.astype(np.float64).mean(axis=2)
    gradient = np.zeros_like(gray)
    gradient[1:] += np.abs(np.diff(gray, axis=0))
    gradient[:, 1:] += np.abs(np.diff(gray, axis=1))
    integral = np.pad(gradient, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    y = np.arange(0, lr.shape[0] - patch + 1, _stride(patch))[:, None]
    x = np.arange(0, lr.shape[1] - patch + 1, _stride(patch))[None, :]
    total = integral[y + patch, x + patch] - integral[y, x + patch] - integral[y + patch, x] + integral[y, x]
    cells = np.stack(np.broadcast_arrays(y, x), axis=-1).reshape(-1, 2)
    return cells, total.reshape(-1) / patch**2


def _changed(patch: UInt8, changes: Iterable[Change]) -> UInt8:
    """Copied: a view would keep its file open."""
    patch = np.array(patch)
    for change in changes:
        patch = change(patch)
    return patch


def _tensor(patches: list[UInt8]) -> Tensor:
    batch = np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2))
    return torch.from_numpy(images.to_float(batch))
