"""What is measured: which part of which network, on which picture, and the files that the workers read."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantsr import images
from quantsr.bench import parts, random_network
from quantsr.bench.parts import Part
from quantsr.dequantize import without_quantizers
from quantsr.images import UInt8
from quantsr.packing.program import PackedModel

SAMPLES, SAMPLE_SIDE = 8, 64  # pictures for calibration, pixels on a side


@dataclass(frozen=True)
class Network:
    """low: what our engine runs. plain: the float network for the peers; float32, or quantized to int8 by them."""

    name: str
    low: Part
    plain: Part

    @classmethod
    def of(cls, packed: PackedModel, float_model: PackedModel | None) -> "Network":
        """float_model: a float network trained alike; without it the peers get the dequantized weights."""
        low = Part(packed.programs["full"], packed.tensors)
        other = low if float_model is None else Part(float_model.programs["full"], float_model.tensors)
        return cls(packed.info["name"], low, Part(*without_quantizers(other.program, other.tensors)))

    @property
    def upscale(self) -> int:
        return math.prod(int(op.attrs["upscale"]) for op in self.low.program.ops if op.kind == "pixel_shuffle")

    @property
    def has_size(self) -> bool:
        return parts.has_size(self.low)

    def can_collapse(self) -> bool:
        return parts.can_collapse(self.low)


@dataclass(frozen=True)
class Picture:
    """What the network upscales; `hr` where the truth is known."""

    lr: UInt8
    hr: UInt8 | None = None

    @property
    def size(self) -> str:
        return f"{self.lr.shape[1]}x{self.lr.shape[0]}"


@dataclass(frozen=True)
class Cut:
    """A part of a network with its tail as wanted; `before` makes the part's input of an RGB image, None: the image."""

    low: Part
    plain: Part
    before: Part | None

    def input(self, image: UInt8) -> np.ndarray:
        pixels = images.to_float(image)
        return pixels if self.before is None else self.before.run(pixels)

    def save(self, folder: Path, samples: list[UInt8]) -> None:
        """The files of `job.Job.network`."""
        folder.mkdir(parents=True)
        parts.save(self.low, folder / "low.safetensors")
        parts.save(self.plain, folder / "float.safetensors")
        np.save(folder / "calibration.npy", np.stack([self.input(sample) for sample in samples]))


def cut(network: Network, part: str, tail: str, picture: UInt8, seed: int) -> Cut:
    """picture: any, to calibrate the random layers of part "layer"."""
    if part == "network" and tail == "as-is":
        return Cut(network.low, network.plain, None)
    if part == "network":
        return Cut(parts.collapsed(network.low), parts.with_inner_kernels(parts.collapsed(network.plain)), None)
    before, low = parts.body(network.low)
    if part == "layer":
        low = parts.layer(before.run(images.to_float(picture)), seed)
    plain = Part(*without_quantizers(low.program, low.tensors), low.channels)
    return Cut(low, plain, before)


def samples(picture: UInt8) -> list[UInt8]:
    """SAMPLES crops, spread over the picture."""
    side = min(SAMPLE_SIDE, *picture.shape[:2])
    rows = np.linspace(0, picture.shape[0] - side, 2).astype(int)
    columns = np.linspace(0, picture.shape[1] - side, SAMPLES // 2).astype(int)
    return [picture[y : y + side, x : x + side] for y in rows for x in columns]


def turned(picture: UInt8) -> list[UInt8]:
    """SAMPLES pictures of the size of one: it, flipped and inverted."""
    flips = [picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1]]
    return [np.ascontiguousarray(part) for flip in flips for part in (flip, 255 - flip)]


def square(photo: UInt8 | None, side: int, seed: int) -> Picture:
    """The photo's top left corner, or a made-up picture where there is no photo or it is too small."""
    if photo is not None and min(photo.shape[:2]) >= side:
        return Picture(photo[:side, :side])
    return Picture(random_network.picture(side, side, seed))


def reduced(photo: UInt8, upscale: int) -> Picture:
    """The photo as the truth, and its reduction as what is upscaled."""
    hr = images.crop_to_multiple(photo, upscale)
    return Picture(images.downscale(hr, upscale), hr)
