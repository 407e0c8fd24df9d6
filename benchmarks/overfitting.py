"""How much better than photographs it never saw a float network of QuantSR-C does those that it was trained on.

The yardstick is RLFN x4, which was trained on other photographs altogether: PSNR-Y of the network minus that of RLFN
on the middle of photographs, as validation takes it: of all held out, and of every ninth that trains. WEIGHTS is a
float checkpoint such as checkpoints/x4-float.safetensors, RLFN its team04_rlfn.pth; `photos` is where this runs.

python benchmarks/overfitting.py WEIGHTS RLFN
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quantsr import checkpoint, images, metrics, train
from quantsr.config import DataConfig, TeacherConfig
from quantsr.data.patches import Photo
from quantsr.teachers import load_teacher


def main(weights: Path, rlfn: Path) -> None:
    network, found = checkpoint.load_network(weights)
    config = dataclasses.replace(found.config, data=DataConfig(), teacher=TeacherConfig(str(rlfn), "rlfn"))
    teacher = load_teacher(config, torch.device("cpu"))
    trained, held = train.split_photos(config)
    for name, photos in (("trained on", trained[::9]), ("held out", held)):
        ours, theirs = (psnr(model, photos, config.model.upscale) for model in (network, teacher))
        print(f"{name}: {len(photos)} photographs, {ours:.2f} dB, RLFN {theirs:.2f} dB, {ours - theirs:+.2f}")


@torch.no_grad()
def psnr(network: nn.Module, photos: list[Photo], upscale: int) -> float:
    scores = []
    for photo in photos:
        lr, hr = train.centre(photo, upscale)
        sr = network(torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        scores.append(metrics.psnr(images.to_uint8(sr), hr, upscale))
    return float(np.mean(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
