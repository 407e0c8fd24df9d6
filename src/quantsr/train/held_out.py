"""The photographs that are held out of training, and how well a network does on them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantsr import images, metrics
from quantsr.config import TrainConfig
from quantsr.data.patches import Photo, load_photos

SIDE = 192  # LR pixels: only the centre of each is scored


def split_photos(config: TrainConfig) -> tuple[list[Photo], list[Photo]]:
    """Training and validation photographs, split by their place among the files' names, before anything is learned.

    Raises ValueError unless there are some of both.
    """
    data = config.data
    folder, cache = Path(data.photos), Path(data.cache)
    photos = load_photos(folder, cache, config.model.upscale, data.patch, data.shrunk, data.unpaired)
    held = [photo for photo in photos if photo.number % data.holdout == 0 and photo.size == 1]
    rest = [photo for photo in photos if photo.number % data.holdout]
    if not rest or not held:
        raise ValueError(
            f"{data.photos}: got {len(rest)} usable photographs to train on and {len(held)} to validate on, wanted "
            f"some of both: add photographs, or change data.holdout ({data.holdout})"
        )
    return rest, held


@torch.no_grad()
def mean_psnr(
    network: Callable[[Tensor], Tensor], photos: Iterable[Photo], upscale: int, device: torch.device
) -> float:
    """Mean PSNR-Y in dB over the middle of photographs that have HR.

    network: LR float32 (1, 3, H, W) on the device -> SR (1, 3, H*upscale, W*upscale), RGB in [0, 1].
    """
    scores = []
    for photo in photos:
        lr, hr = _centre(photo, upscale)
        x = torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None].to(device)
        sr = network(x)[0].permute(1, 2, 0).cpu().numpy()
        scores.append(metrics.psnr(images.to_uint8(sr), hr, upscale))
    return float(np.mean(scores))


def _centre(photo: Photo, upscale: int) -> tuple[images.UInt8, images.UInt8]:
    """The middle of a photograph that has HR, at most SIDE LR pixels on a side."""
    lr, hr = photo.lr, photo.hr
    assert hr is not None
    size = [min(side, SIDE) for side in lr.shape[:2]]
    y, x = ((side - s) // 2 for side, s in zip(lr.shape[:2], size, strict=True))
    lr = np.array(lr[y : y + size[0], x : x + size[1]])
    y, x, height, width = (v * upscale for v in (y, x, *size))
    return lr, np.array(hr[y : y + height, x : x + width])
