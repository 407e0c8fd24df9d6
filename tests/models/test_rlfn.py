from pathlib import Path

import numpy as np
import pytest
import torch

from quantsr import images, metrics
from quantsr.models.rlfn import RLFN


@pytest.fixture(scope="module")
def rlfn(data_folder: Path) -> RLFN:
    network = RLFN()
    weights = data_folder / "weights" / "rlfn" / "team04_rlfn.pth"
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def test_it_has_its_published_size() -> None:
    assert sum(p.numel() for p in RLFN().parameters()) // 1000 == 317


@pytest.mark.parametrize("size", [(15, 15), (16, 31), (40, 33)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_it_enlarges_fourfold(size: tuple[int, int]) -> None:
    assert RLFN()(torch.rand(1, 3, *size)).shape == (1, 3, size[0] * 4, size[1] * 4)


@torch.no_grad()
@pytest.mark.parametrize("name,published", [("Set5", 32.10), pytest.param("Set14", 28.60, marks=pytest.mark.slow)])
def test_it_scores_what_was_measured_elsewhere(rlfn: RLFN, data_folder: Path, name: str, published: float) -> None:
    folder, scores = data_folder / "benchmarks" / name, []
    for file in sorted((folder / "HR").glob("*.png")):
        lr = images.read(folder / "LR_bicubic" / "X4" / f"{file.stem}x4.png")
        sr = rlfn(torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        hr = images.crop_to_multiple(images.read(file), 4)
        scores.append(metrics.psnr(images.to_uint8(sr), hr, 4))
    assert np.mean(scores) == pytest.approx(published, abs=0.02)


@torch.no_grad()
def test_bfloat16_keeps_it_as_bright(rlfn: RLFN, data_folder: Path) -> None:
    lr = images.read(data_folder / "benchmarks" / "Set5" / "LR_bicubic" / "X4" / "butterflyx4.png")
    x = torch.from_numpy(images.to_float(lr[:40, :40])).permute(2, 0, 1)[None]
    exact = rlfn(x)
    with torch.autocast("cpu", torch.bfloat16):
        apart = 255 * (rlfn(x) - exact)
    assert apart.dtype == torch.float32 and apart.mean().abs() < 0.05 and apart.square().mean().sqrt() < 1
