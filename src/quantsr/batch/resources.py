"""What the machine has left, and what results need."""

import shutil
from pathlib import Path

from quantsr.files import nearest
from quantsr.photos import Facts, Format
from quantsr.photos.write import LARGE_PIXELS

MIB = 1 << 20
PROGRAM_BYTES = 112 * MIB  # the interpreter with its libraries, a model, and what allocators hold back
TILE_BYTES = 1024 * MIB  # enough for the largest tile of the bundled models
# Bytes of a file for each byte of pixels: medians over 13 photographs of B100 enlarged x4, default quality.
FILE_SHARE = {"PNG": 0.41, "JPEG": 0.11, "WEBP": 0.06, "TIFF": 0.44, "AVIF": 0.035, "BMP": 1.0}
DEEP_SHARE = 0.84  # of 16 bits


def memory_for(facts: Facts, upscale: int, kind: Format | None) -> int:
    """Bytes that are needed whatever the tile: program, picture, result, and the encoder's copy of it.

    kind: the format of the result.
    """
    pixels = facts.width * facts.height
    sample = facts.bits // 8
    alpha = pixels * upscale**2 * sample if facts.channels in (2, 4) else 0
    in_bands = kind is not None and kind.name == "PNG" and pixels * upscale**2 > LARGE_PIXELS
    encoder = 0 if in_bands else 4 * pixels * upscale**2  # Pillow keeps 4 bytes for a pixel
    return PROGRAM_BYTES + pixels * facts.channels * sample * (1 + upscale**2) + alpha + encoder


def free_memory() -> int | None:
    """Bytes that this process may still take without swapping; None where the system does not tell."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            limits.append(int(limit) - int((group / "memory.current").read_text()) + _reclaimable(group))
    except (OSError, ValueError, IndexError):
        pass
    return min(limits, default=None)


def _reclaimable(group: Path) -> int:
    rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(rows.get("inactive_file", 0)) + int(rows.get("active_file", 0))


def disk_for(facts: Facts, kind: Format, upscale: int) -> int:
    """About how many bytes the file of a result takes."""
    deep = kind.deep and facts.bits == 16
    share = 2 * DEEP_SHARE if deep else FILE_SHARE[kind.name]
    return round(facts.width * facts.height * upscale**2 * facts.channels * share)


def free_disk(folder: Path) -> int:
    """Bytes left where `folder` is, or will be."""
    return shutil.disk_usage(nearest(folder)).free


def shown(amount: int) -> str:
    """Bytes for people, rounded down: never more than there is."""
    if amount < 1024:
        return f"{amount} B"
    if amount < MIB:
        return f"{amount // 1024} KiB"
    return f"{amount // MIB} MiB" if amount < 1024 * MIB else f"{amount * 10 // (1024 * MIB) / 10} GiB"
