"""How much better than photographs it never saw a float network of QuantSR-C does those that it was trained on.

The yardstick is RLFN x4, which was trained on other photographs altogether: PSNR-Y of the network minus that of RLFN
on the middle of photographs, as validation takes it: of all held out, and of every ninth that trains. WEIGHTS is a
float checkpoint such as checkpoints/x4-float.safetensors, RLFN its team04_rlfn.pth; `photos` is where this runs.

python benchmarks/overfitting.py WEIGHTS RLFN
"""

import dataclasses
import sys
from pathlib import Path

import torch

from quantsr import checkpoint, train
from quantsr.config import DataConfig, TeacherConfig
from quantsr.train.teachers import load_teacher

CPU = torch.device("cpu")


def main(weights: Path, rlfn: Path) -> None:
    network, found = checkpoint.load_network(weights)
    config = dataclasses.replace(found.config, data=DataConfig(), teacher=TeacherConfig(str(rlfn), "rlfn"))
    teacher = load_teacher(config, CPU)
    trained, held = train.split_photos(config)
    for name, photos in (("trained on", trained[::9]), ("held out", held)):
        ours, theirs = (train.mean_psnr(model, photos, config.model.upscale, CPU) for model in (network, teacher))
        print(f"{name}: {len(photos)} photographs, {ours:.2f} dB, RLFN {theirs:.2f} dB, {ours - theirs:+.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
