"""The README's comparison: python benchmarks/pictures.py

Upscales examples/photos/tapiola.jpg x4 and lays out input, bicubic and the bundled models for two crops, and the whole
picture, under docs/pictures.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import quantsr
from quantsr import images, photos

ROOT = Path(__file__).parents[1]
CROPS = [(100, 60), (20, 225)]  # left, top in input pixels
SIDE = 72  # input pixels
MODELS = {"4 bits": "quantsr-c-x4-w4a4", "2 bits": "quantsr-c-x4-w2a2"}


def main() -> None:
    photo = images.read(ROOT / "examples/photos/tapiola.jpg")
    panels = {"input, pixels enlarged": photo.repeat(4, 0).repeat(4, 1), "bicubic": images.bicubic(photo, 4)}
    panels |= {label: quantsr.load(name).upscale(photo) for label, name in MODELS.items()}
    out = ROOT / "docs/pictures"
    photos.write(out / "tapiola-x4.jpg", photos.Photo(panels["4 bits"]))
    rows = [np.concatenate([crop(panel, *corner) for panel in panels.values()], axis=1) for corner in CROPS]
    sheet = Image.fromarray(np.concatenate(rows))
    label(sheet, list(panels))
    sheet.save(out / "comparison.png")


def crop(panel: np.ndarray, left: int, top: int) -> np.ndarray:
    part = panel[top * 4 : (top + SIDE) * 4, left * 4 : (left + SIDE) * 4]
    return np.pad(part, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def label(sheet: Image.Image, names: list[str]) -> None:
    draw = ImageDraw.Draw(sheet)
    for index, name in enumerate(names):
        x = index * (SIDE * 4 + 4) + 8
        draw.rectangle((x - 4, 4, x + 7 * len(name) + 4, 20), fill="black")
        draw.text((x, 7), name, fill="white")


if __name__ == "__main__":
    main()
