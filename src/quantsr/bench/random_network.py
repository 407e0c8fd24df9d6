"""Networks with random weights in the shape of EDSR, W4A4, made from a seed and without torch: for timing.

Activation steps are calibrated: a small picture runs through while the network is built, and each quantizer takes
LSQ's first step for what it sees, so codes are spread as in a trained network.
"""

from typing import Any

import numpy as np

from quantsr import images, reference
from quantsr.packing import bits
from quantsr.packing.checks import check_model
from quantsr.packing.program import IMAGE, Op, PackedModel, Program

BITS = 4
UPSCALE = 4
CHANNELS = 64
LAYERS = 16  # of the chain that `layers` makes
_SAMPLE_SIDE = 32  # pixels of the picture for calibration


def network(*, blocks: int, upsampler: str, seed: int = 0) -> PackedModel:
    """x4, 64 channels, float head and tail, 2*blocks low-bit convolutions. upsampler: "paper" or "direct"."""
    build = _Builder(seed)
    mean = np.full(3, 0.45)
    head = build.conv2d("head", build.affine("input", IMAGE, -mean), CHANNELS)
    stream = head
    for index in range(blocks):
        name = f"body.{index}"
        branch = build.relu(build.qconv2d(f"{name}.conv1", stream, np.sqrt(2)))
        branch = build.qconv2d(f"{name}.conv2", branch, 0.3)  # a branch is small beside its shortcut
        stream = build.residual(name, stream, branch)
    build.forget_samples()
    value = build.residual("long_skip", head, build.conv2d("after_body", stream, CHANNELS))
    factors = (2, 2) if upsampler == "paper" else (UPSCALE,)
    for index, factor in enumerate(factors):
        outputs = (CHANNELS if upsampler == "paper" else 3) * factor**2
        value = build.shuffle(f"shuffle.{index}", build.conv2d(f"up.{index}", value, outputs), factor)
    if upsampler == "paper":
        value = build.conv2d("last", value, 3)
    output = build.affine("output", value, mean)
    programs = {"full": Program(tuple(build.ops), output)}
    packed = PackedModel(_info(build, blocks, upsampler, seed), programs, build.tensors)
    check_model(packed)
    return packed


def layers(features: np.ndarray, seed: int = 0) -> tuple[Program, dict[str, np.ndarray]]:
    """LAYERS times C -> C convolution and ReLU, low-bit throughout, for an input like `features` (H, W, C)."""
    build = _Builder(seed)
    build.samples[IMAGE] = features[:_SAMPLE_SIDE, :_SAMPLE_SIDE]
    value = IMAGE
    for index in range(LAYERS):
        value = build.relu(build.qconv2d(f"layer.{index}", value, np.sqrt(2)))
    return Program(tuple(build.ops), value), build.tensors


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A made-up uint8 RGB picture: smooth waves, an edge every few pixels, a little noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    result = np.zeros((height, width, 3))
    for _ in range(12):
        fy, fx, phase = random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4), random.uniform(0, 6.3, 3)
        wave = np.sin(fy * y + fx * x)[..., None] + np.sin(0.1 * (fx * y - fy * x)[..., None] + phase)
        result += np.where(random.random() < 0.3, np.sign(wave), wave)
    result += random.normal(0, 0.2, result.shape)
    low, high = np.percentile(result, [1, 99])
    return images.to_uint8((result - low) / (high - low))


class _Builder:
    """Emits ops and runs each on the sample at once."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.ops: list[Op] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.samples = {IMAGE: images.to_float(picture(_SAMPLE_SIDE, _SAMPLE_SIDE, seed))}

    def forget_samples(self) -> None:
        """No quantizer follows; from here on the values only tell their channels."""
        self.samples = {name: sample[:1, :1] for name, sample in self.samples.items()}

    def affine(self, name: str, value: str, offset: np.ndarray) -> str:
        return self._emit("affine", (value,), name, {}, scale=np.ones(len(offset)), offset=offset)

    def conv2d(self, name: str, value: str, outputs: int) -> str:
        channels = self.samples[value].shape[2]
        weight = self._weight(outputs, channels, 1.0)
        return self._emit("conv2d", (value,), name, {}, weight=weight, bias=self.random.normal(0, 0.01, outputs))

    def qconv2d(self, name: str, value: str, gain: float) -> str:
        """quantize and qconv2d, C -> C; `gain`: how many times wider the result is than its input."""
        sample = self.samples[value]
        channels = sample.shape[2]
        signed = bool(sample.min() < 0)
        zero = 2 ** (BITS - 1) if signed else 0
        levels = 2**BITS - 1
        shift = self.random.normal(0, 0.02, channels) * sample.std()
        step = 2 * float(np.abs(sample + shift).mean()) / np.sqrt(levels - zero)
        attrs: dict[str, Any] = {"inv": float(np.float32(1 / step)), "levels": levels}
        codes = self._emit("quantize", (value,), f"{name}.codes", attrs, offset=shift / step + zero)

        weight = self._weight(channels, channels, gain)
        half = 2 ** (BITS - 1)
        weight_step = 2 * np.abs(weight).mean() / np.sqrt(half - 1)
        stored = np.rint(weight / weight_step).clip(-half, half - 1) + half
        attrs = {"in_channels": channels, "out_channels": channels, "kernel": 3}
        attrs |= {"weight_bits": BITS, "act_bits": BITS, "zero": zero}
        return self._emit(
            "qconv2d",
            (codes,),
            name,
            attrs,
            weight=bits.pack(stored.astype(np.uint8), BITS),
            mul=np.full(channels, step * weight_step),
            bias=self.random.normal(0, 0.01, channels),
        )

    def relu(self, value: str) -> str:
        return self._emit("relu", (value,), f"{value}.relu", {})

    def residual(self, name: str, skip: str, branch: str) -> str:
        return self._emit("residual", (skip, branch), name, {"gain": 1.0})

    def shuffle(self, name: str, value: str, factor: int) -> str:
        return self._emit("pixel_shuffle", (value,), name, {"upscale": factor})

    def _weight(self, outputs: int, channels: int, gain: float) -> np.ndarray:
        return self.random.normal(0, gain / np.sqrt(9 * channels), (outputs, 3, 3, channels))

    def _emit(self, kind: str, inputs: tuple[str, ...], name: str, attrs: dict[str, Any], **arrays: Any) -> str:
        tensors = {role: f"{name}.{role}" for role in arrays}
        for role, array in arrays.items():
            stored = array if array.dtype == np.uint8 else array.astype(np.float32)
            self.tensors[tensors[role]] = np.ascontiguousarray(stored)
        self.ops.append(Op(kind, inputs, name, attrs, tensors))
        self.samples[name] = reference.step(self.ops[-1], [self.samples[value] for value in inputs], self.tensors)
        return name


def _info(build: _Builder, blocks: int, upsampler: str, seed: int) -> dict[str, Any]:
    convs = [op for op in build.ops if op.kind in ("conv2d", "qconv2d")]
    floats = sum(build.tensors[op.tensors["weight"]].size for op in convs if op.kind == "conv2d")
    biases = sum(build.tensors[op.tensors["bias"]].size for op in convs)
    return {
        "name": f"random-{blocks}-{upsampler}",
        "architecture": "quantsr-c",
        "upscale": UPSCALE,
        "channels": CHANNELS,
        "blocks": blocks,
        "upsampler": upsampler,
        "weight_bits": BITS,
        "act_bits": BITS,
        "quantizer": "lsq",
        "placement": "body",
        "quantized_layers": [op.output for op in convs if op.kind == "qconv2d"],
        "depths": {"full": list(range(blocks))},
        "parameters": floats + biases + 2 * blocks * 9 * CHANNELS**2,
        "training": {"seed": seed, "note": "random weights, for timing only"},
        "licence": "CC0-1.0",
    }
