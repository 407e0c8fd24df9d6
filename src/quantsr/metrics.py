"""PSNR and SSIM by the protocol of the super-resolution papers.

8-bit output, BT.601 Y, `border` pixels cropped on every side. There is exactly one of each function in this project:
another Y alone moves Set5 x4 by more than 1 dB.
"""

import numpy as np
from numpy.typing import NDArray

from quantsr.images import UInt8, luma

_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2


def psnr(sr: UInt8, hr: UInt8, border: int) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 RGB images (H, W, 3); inf if they are equal on Y.

    Raises ValueError for unequal shapes or an image smaller than its border.
    """
    a, b = _luma_pair(sr, hr, border)
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(sr: UInt8, hr: UInt8, border: int) -> float:
    """Structural similarity (Wang et al., IEEE TIP 13(4), 2004) of two uint8 RGB images (H, W, 3).

    Gaussian window 11x11, sigma 1.5, only where the window fits; raises ValueError where it fits nowhere.
    """
    a, b = _luma_pair(sr, hr, border)
    if min(a.shape) < 11:
        raise ValueError(f"got {a.shape[1]}x{a.shape[0]} pixels after the border, wanted at least 11x11")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    bottom = (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    return float(np.mean(top / bottom))


def _luma_pair(sr: UInt8, hr: UInt8, border: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if sr.shape != hr.shape or sr.ndim != 3 or sr.shape[2] != 3:
        raise ValueError(f"got shapes {sr.shape} and {hr.shape}, wanted two equal (H, W, 3)")
    if sr.dtype != np.uint8 or hr.dtype != np.uint8:
        raise ValueError(f"got {sr.dtype} and {hr.dtype}, wanted uint8: scores are of 8-bit images")
    if min(sr.shape[:2]) <= 2 * border:
        raise ValueError(f"got an image of {sr.shape[1]}x{sr.shape[0]}, wanted more than {2 * border} on each side")
    inner = slice(border, -border or None)
    return luma(sr)[inner, inner], luma(hr)[inner, inner]


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Valid 11x11 Gaussian of sigma 1.5: (H, W) -> (H-10, W-10)."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    rows = sum(w * image[k : image.shape[0] - 10 + k] for k, w in enumerate(window))
    return np.asarray(sum(w * rows[:, k : image.shape[1] - 10 + k] for k, w in enumerate(window)))
