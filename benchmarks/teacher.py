"""Scores of RLFN x4 as a teacher: at x4, and at x2 and x3 with its output shrunk by the benchmarks' bicubic.

By one view of a picture, and as the mean over two.

python benchmarks/teacher.py WEIGHTS DIR, WEIGHTS RLFN's team04_rlfn.pth, DIR with Set5, Set14 and B100.
Writes benchmarks/results/teacher.json.
"""

import itertools
import json
import sys
from pathlib import Path

import torch

from quantsr import images
from quantsr.config import ModelConfig, TeacherConfig, TrainConfig
from quantsr.data import benchmarks
from quantsr.evaluate import evaluate
from quantsr.images import UInt8
from quantsr.train.teachers import load_teacher

ROOT = Path(__file__).parents[1]


def main(weights: str, data: Path) -> None:
    cases = itertools.product((2, 3, 4), (1, 2), ("Set5", "Set14", "B100"))
    rows = [score(weights, data, name, upscale, views) for upscale, views, name in cases]
    (ROOT / "benchmarks/results/teacher.json").write_text(json.dumps({"results": rows}, indent=2))
    for row in rows:
        print("x{scale}, {views} view(s), {set}: {psnr:.2f} dB / {ssim:.4f}".format(**row))


def score(weights: str, data: Path, name: str, upscale: int, views: int) -> dict[str, object]:
    teaching = TeacherConfig(weights=weights, kind="rlfn", views=views)
    config = TrainConfig(ModelConfig(upscale=upscale), teacher=teaching)
    teacher = load_teacher(config, torch.device("cpu"))

    @torch.no_grad()
    def enlarge(lr: UInt8) -> UInt8:
        taught = teacher(torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None])
        return images.to_uint8(taught[0].permute(1, 2, 0).numpy())

    found = evaluate(enlarge, benchmarks.pairs(data, name, upscale), upscale)
    return {"model": "RLFN x4", "set": name, "scale": upscale, "views": views, "psnr": found.psnr, "ssim": found.ssim}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
