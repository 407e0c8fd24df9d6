"""Random small networks of the full shape: head, residual blocks at low bit width, upsampler, tail, all depths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantsr.packing import bits
from quantsr.packing.program import IMAGE, Op, PackedModel, Program


def tiny_model(
    *,
    channels: int = 8,
    blocks: int = 4,
    weight_bits: int = 4,
    act_bits: int = 4,
    upscale: int = 2,
    upsampler: str = "pixelshuffle",
    kernel: int = 3,
    depths: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> PackedModel:
    """A valid model whose values use the whole range of codes. `kernel` is that of the low-bit convolutions (1 or 3).

    `upsampler`: "pixelshuffle" (x4 is twice x2) or "direct" (one convolution to 3*upscale**2 channels). `depths` names
    the blocks that each program keeps; by default all, the last half and the last quarter.
    """
    return _Builder(seed, weight_bits, act_bits, channels, kernel).model(blocks, upscale, upsampler, depths)


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 (height, width, 3) in [0, 1], of 8-bit values."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return (pixels / 255).astype(np.float32)


class _Builder:
    def __init__(self, seed: int, weight_bits: int, act_bits: int, channels: int, kernel: int) -> None:
        self.random = np.random.default_rng(seed)
        self.weight_bits, self.act_bits, self.channels, self.kernel = weight_bits, act_bits, channels, kernel
        self.tensors: dict[str, np.ndarray] = {}

    def model(
        self, blocks: int, upscale: int, upsampler: str, depths: Mapping[str, Sequence[int]] | None
    ) -> PackedModel:
        everything = range(blocks)
        kept = depths or {"full": everything, "half": everything[blocks // 2 :], "quarter": everything[-blocks // 4 :]}
        head = [self.affine("sub_mean", 3, IMAGE), self.conv("head", 3, self.channels, "sub_mean")]
        gains = self.random.uniform(0.8, 1.25, blocks).astype(np.float32).tolist()
        bodies = [self.block(i, gains[i]) for i in everything]
        tail = self.tail(upscale, upsampler)
        info = self.info(blocks, upscale, upsampler, kept)
        programs = {}
        for depth, keep in kept.items():
            body: list[Op] = []
            stream, pending = "head", 1.0  # pending: the gains of skipped blocks, folded into the next kept one
            for i in everything:
                if i not in keep:
                    pending *= gains[i]
                    continue
                body += [_folded(_renamed(op, "stream", stream), pending) for op in bodies[i]]
                stream, pending = f"b{i}", 1.0
            if pending != 1.0:
                body += [self.affine(f"fold.{depth}", self.channels, stream, scale=pending)]
                stream = body[-1].output
            end = [_renamed(op, "stream", stream) for op in tail]
            programs[depth] = Program((*head, *body, *end), end[-1].output)
        used = {name for program in programs.values() for op in program.ops for name in op.tensors.values()}
        info["parameters"] = sum(self.count(op) for op in programs["full"].ops)
        return PackedModel(info, programs, {name: self.tensors[name] for name in used})

    def block(self, i: int, gain: float) -> list[Op]:
        """Signed codes of the stream, unsigned ones after the ReLU."""
        n, signed = f"b{i}", 2 ** (self.act_bits - 1)
        return [
            self.quantize(f"{n}.q1", "stream", signed, step=2.0 / signed),
            self.qconv(f"{n}.c1", f"{n}.q1", signed),
            Op("relu", (f"{n}.c1",), f"{n}.r"),
            self.quantize(f"{n}.q2", f"{n}.r", 0, step=2.0 / (2 * signed - 1)),
            self.qconv(f"{n}.c2", f"{n}.q2", 0),
            Op("residual", ("stream", f"{n}.c2"), n, {"gain": gain}),
        ]

    def tail(self, upscale: int, upsampler: str) -> list[Op]:
        ops = [
            self.conv("after", self.channels, self.channels, "stream"),
            Op("residual", ("head", "after"), "long", {"gain": 1.0}),
        ]
        if upsampler == "direct":
            ops += [
                self.conv("up", self.channels, 3 * upscale**2, "long"),
                Op("pixel_shuffle", ("up",), "last", {"upscale": upscale}),
            ]
        else:
            value = "long"
            for j, r in enumerate((2, 2) if upscale == 4 else (upscale,)):
                ops += [
                    self.conv(f"up{j}", self.channels, self.channels * r * r, value),
                    Op("pixel_shuffle", (f"up{j}",), f"shuffle{j}", {"upscale": r}),
                ]
                value = f"shuffle{j}"
            ops += [self.conv("last", self.channels, 3, value)]
        return [*ops, self.affine("add_mean", 3, "last")]

    def affine(self, name: str, channels: int, value: str, scale: float | None = None) -> Op:
        random = self.random.uniform(0.5, 2, channels)
        self.float(f"{name}.scale", random if scale is None else np.full(channels, scale))
        self.float(f"{name}.offset", self.random.normal(0, 0.3, channels) * (scale is None))
        return Op("affine", (value,), name, {}, {"scale": f"{name}.scale", "offset": f"{name}.offset"})

    def conv(self, name: str, inputs: int, outputs: int, value: str) -> Op:
        self.float(f"{name}.weight", self.random.normal(0, (9 * inputs) ** -0.5, (outputs, 3, 3, inputs)))
        self.float(f"{name}.bias", self.random.normal(0, 0.1, outputs))
        return Op("conv2d", (value,), name, {}, {"weight": f"{name}.weight", "bias": f"{name}.bias"})

    def quantize(self, name: str, value: str, zero: int, step: float) -> Op:
        self.float(f"{name}.offset", self.random.normal(0, 0.5, self.channels) + zero)
        attrs = {"inv": float(np.float32(1 / step)), "levels": 2**self.act_bits - 1}
        return Op("quantize", (value,), name, attrs, {"offset": f"{name}.offset"})

    def qconv(self, name: str, value: str, zero: int) -> Op:
        shape = (self.channels, self.kernel, self.kernel, self.channels)
        half = 2 ** (self.weight_bits - 1)
        weights = np.rint(self.random.normal(0, half / 2, shape)).clip(-half, half - 1)  # both ends occur
        self.tensors[f"{name}.weight"] = bits.pack((weights + half).astype(np.uint8), self.weight_bits)
        spread = half / 2 * 2**self.act_bits / (6 if zero else 2) * (self.channels * self.kernel**2) ** 0.5
        self.float(f"{name}.mul", self.random.uniform(0.5, 2, self.channels) / spread)
        self.float(f"{name}.bias", self.random.normal(0, 0.1, self.channels))
        attrs = {
            "in_channels": self.channels,
            "out_channels": self.channels,
            "kernel": self.kernel,
            "weight_bits": self.weight_bits,
            "act_bits": self.act_bits,
            "zero": zero,
        }
        return Op("qconv2d", (value,), name, attrs, {role: f"{name}.{role}" for role in ("weight", "mul", "bias")})

    def float(self, name: str, array: np.ndarray) -> None:
        self.tensors[name] = np.ascontiguousarray(array, np.float32)

    def count(self, op: Op) -> int:
        if op.kind == "conv2d":
            return sum(self.tensors[name].size for name in op.tensors.values())
        return self.channels * (self.channels * self.kernel**2 + 1) if op.kind == "qconv2d" else 0

    def info(self, blocks: int, upscale: int, upsampler: str, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        low = any(kept.values())
        return {
            "name": "tiny",
            "architecture": "quantsr-c",
            "upscale": upscale,
            "channels": self.channels,
            "blocks": blocks,
            "upsampler": upsampler,
            "weight_bits": self.weight_bits if low else 32,
            "act_bits": self.act_bits if low else 32,
            "quantizer": "rlq",
            "placement": "trunk",
            "quantized_layers": [f"b{i}.c{j}" for i in range(blocks) for j in (1, 2)],
            "depths": {depth: list(keep) for depth, keep in kept.items()},
            "training": {"seed": 0, "note": "random weights"},
            "licence": "Apache-2.0",
        }


def _renamed(op: Op, old: str, new: str) -> Op:
    return Op(op.kind, tuple(new if name == old else name for name in op.inputs), op.output, op.attrs, op.tensors)


def _folded(op: Op, gain: float) -> Op:
    """The ops that read the stream see it before the skipped gains: quantize and residual take them over."""
    factor = {"quantize": "inv", "residual": "gain"}.get(op.kind)
    if gain == 1.0 or factor is None or op.output.endswith(".q2"):
        return op
    folded = float(np.float32(op.attrs[factor] * gain))
    return Op(op.kind, op.inputs, op.output, {**op.attrs, factor: folded}, op.tensors)
