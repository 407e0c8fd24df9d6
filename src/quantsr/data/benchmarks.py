"""The benchmark sets of the super-resolution papers, read from a user's own copy.

Layout: `<root>/<Set>/HR/<name>.png` and, where there are official ones, `<root>/<Set>/LR_bicubic/X<s>/<name>x<s>.png`;
LR images that are missing are made by `images.downscale`, which repeats the official files sample for sample.
None of these pictures may be used for training.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantsr import images
from quantsr.images import UInt8

log = logging.getLogger(__name__)


class BenchmarkError(ValueError):
    """A benchmark set that is unknown, missing or incomplete."""


@dataclass(frozen=True)
class Benchmark:
    """checksum: SHA-256 over the RGB pixels of all HR images by name; empty where no copy was at hand to take it."""

    images: int
    source: str
    licence: str
    citation: str
    checksum: str = ""


_RESEARCH = "none stated; used for research by custom"

BENCHMARKS = {
    "Set5": Benchmark(
        5, "JingyunLiang/SwinIR, testsets", _RESEARCH, "Bevilacqua et al., BMVC 2012",
        "8dec677bb48f061324dd180ad8d2e2268c792ac04de594e0f2e1a1fa5f4898af",
    ),
    "Set14": Benchmark(
        14, "zhaohengyuan1/PAN, datasets", _RESEARCH, "Zeyde et al., Curves and Surfaces 2010",
        "3b82465ae372e347338d61df455acec1e925636869b14e282e9c5d145621142f",
    ),
    "B100": Benchmark(
        100, "BIDS/BSDS500, val", "Berkeley: non-commercial research and education", "Martin et al., ICCV 2001",
        "c03be5f4e5c4edb26fe3cc716ef916693580e744cb6e7e67f971ed431b50fd18",
    ),
    "Urban100": Benchmark(100, "jbhuang0604/SelfExSR, x4 HR files", _RESEARCH, "Huang et al., CVPR 2015"),
    "Manga109": Benchmark(109, "on application", "academic research, no redistribution", "Matsui et al., MTAP 2017"),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """lr uint8 (H, W, 3) and hr uint8 (H*s, W*s, 3); gray pictures are read as RGB, as network scores have them."""

    name: str
    lr: UInt8
    hr: UInt8


def hr_files(root: Path, name: str) -> list[Path]:
    """The HR images of a set, by name. Raises BenchmarkError if the set is unknown or its image count is wrong."""
    if name not in BENCHMARKS:
        raise BenchmarkError(f"got set {name!r}, wanted one of {', '.join(BENCHMARKS)}")
    known = BENCHMARKS[name]
    files = sorted((root / name / "HR").glob("*.png"))
    if len(files) != known.images:
        raise BenchmarkError(
            f"{root / name / 'HR'}: got {len(files)} PNG images, wanted {known.images} ({known.source})"
        )
    return files


def pairs(root: Path, name: str, upscale: int) -> Iterator[Pair]:
    """The pairs of a set, by name. Raises BenchmarkError as `hr_files` does, or for an LR image of the wrong size."""
    files, known = hr_files(root, name), BENCHMARKS[name]
    seen = hashlib.sha256()
    for file in files:
        hr = images.read(file)
        seen.update(hr.tobytes())
        yield _pair(root / name, file.stem, hr, upscale)
    if known.checksum and seen.hexdigest() != known.checksum:
        log.warning("%s differs from the copy that published scores use; its scores do not compare", root / name)


def _pair(folder: Path, name: str, hr: UInt8, upscale: int) -> Pair:
    official = folder / "LR_bicubic" / f"X{upscale}" / f"{name}x{upscale}.png"
    lr = images.read(official) if official.exists() else images.downscale(hr, upscale)
    cropped = hr[: lr.shape[0] * upscale, : lr.shape[1] * upscale]
    if cropped.shape[:2] != (lr.shape[0] * upscale, lr.shape[1] * upscale):
        raise BenchmarkError(f"{official}: got {lr.shape} for HR {hr.shape}, wanted HR {upscale} times as large")
    return Pair(name, lr, cropped)
