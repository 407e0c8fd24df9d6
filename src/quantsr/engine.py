"""The native engine seen from Python: a packed model made ready to run, and tiling for images that are too big."""

import math
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantsr import _native
from quantsr.packing.checks import trace
from quantsr.packing.collapse import collapse_tail
from quantsr.packing.fast import with_eight_bits
from quantsr.packing.ops import ATTENTIONS, QCONVS, period, weight_codes
from quantsr.packing.program import IMAGE, IMAGE_CHANNELS, Op, PackedModel, Program, Step

Array = NDArray[np.float32]

MAX_TILE = 512  # LR pixels: larger ones gain nothing
MAX_THREADS = _native.MAX_THREADS
CELL = 4  # side of the cells, aligned to the image's corner, in which convolutions may compute their outputs


class Rectangle(NamedTuple):
    """Rows top to bottom - 1 and columns left to right - 1 of an image."""

    top: int
    left: int
    bottom: int
    right: int

    def enlarged(self, scale: int) -> tuple[slice, slice]:
        """Its rows and columns in an image whose sides are `scale` times as long."""
        return slice(self.top * scale, self.bottom * scale), slice(self.left * scale, self.right * scale)


class TooLittleMemory(ValueError):
    """lacking: how many bytes more the smallest tile needs."""

    def __init__(self, needed: int, got: int) -> None:
        super().__init__(f"memory: wanted at least {needed} bytes for the smallest tile, got {got}")
        self.lacking = needed - got


class Engine:
    """A packed model's program, compiled for this CPU.

    packed: a checked model, as `quantsr.packing.read` returns it.
    depth: which of its programs to run: "full", "half" or "quarter".
    threads: 1 to 1024; None takes every CPU that this process may use, 1024 at most.
    isa: one of `available_isas()`; None takes $QUANTSR_ISA, or else the fastest.
    preferred_kernel: one of `qconv_kernel_names(isa)`, for the low-bit layers that it fits; None takes the best.
    The result depends on none of the last three, bit for bit.
    fast: run the float convolutions behind the body in 8 bits (`quantsr.packing.fast`), which changes the result a
    little; not in images one pixel wide or high.

    Raises ValueError for a depth that the model lacks, for threads, isa or kernel out of range, for more threads than
    can be started, for fast where nothing could run in 8 bits, and for a program that breaks a rule. Calls from several
    Python threads are safe; their tiles take turns, without holding the GIL. The buffers of the largest image so far
    are kept until the engine goes away.
    """

    def __init__(
        self,
        packed: PackedModel,
        depth: str = "full",
        threads: int | None = None,
        isa: str | None = None,
        *,
        preferred_kernel: str | None = None,
        fast: bool = False,
    ) -> None:
        if depth not in packed.programs:
            raise ValueError(f"depth: wanted one of {', '.join(packed.programs)}, got {depth!r}")
        count = min(usable_cpus(), MAX_THREADS) if threads is None else threads
        if not 1 <= count <= MAX_THREADS:
            raise ValueError(f"threads: wanted 1..{MAX_THREADS}, got {count}")
        self._settings = (IMAGE_CHANNELS, count, isa or "", preferred_kernel or "")
        self._plain = (packed.programs[depth], packed.tensors)
        program, tensors = collapse_tail(*self._plain)
        if fast:
            program, tensors = eight_bits(program, tensors, count, isa or "")
        self.program, self.tensors = program, tensors  # what runs, in images of at least 2x2 pixels
        self._native = self._compiled(program, tensors)
        self._narrow: _native.Engine | None = None
        self.depth = depth
        self.upscale: int = self._native.upscale
        self.threads: int = self._native.threads
        self.isa: str = self._native.isa
        self.grid: int = _grid(program)  # LR pixels: parts begin and end at multiples of it
        self.halo: int = _halo(program, tensors, self.grid)  # LR pixels

    def __call__(self, image: Array, tile: int | None = None) -> Array:
        """The upscaled image.

        image: (H, W, 3) float32 RGB in [0, 1], any H and W from 1 on.
        tile: side of the square parts to run one after the other, in pixels of `image`; None runs all at once. Each
        part is run with a border of at least `halo` pixels around it, so the result is the same, bit for bit; memory is
        bounded by the tile, except for the result.
        Returns (upscale*H, upscale*W, 3) float32, not clamped. Raises ValueError for another shape or dtype, numbers
        that are not finite, or tile < 1; MemoryError if the buffers do not fit.
        """
        image = _checked(image)
        if tile is None:
            return self._run(self._native_for(image), image)
        h, w, _ = image.shape
        out = np.empty((h * self.upscale, w * self.upscale, IMAGE_CHANNELS), np.float32)
        for rectangle in rectangles(image.shape, tile):
            out[rectangle.enlarged(self.upscale)] = self.part(image, rectangle)
        return out

    def part(self, image: Array, rectangle: Rectangle) -> Array:
        """What the upscaled image has where `rectangle` lies: float32 (upscale*h, upscale*w, 3), not clamped.

        Bit for bit as in the whole. image, and what is raised: as for a call. rectangle: h x w pixels inside it.
        """
        native = self._native_for(image)
        halo = self.halo if native is self._native else _halo(*self._plain, self.grid)
        top, left = (max(side // self.grid * self.grid - halo, 0) for side in (rectangle.top, rectangle.left))
        end, last = (_up(side, self.grid) + halo for side in (rectangle.bottom, rectangle.right))
        out = self._run(native, _checked(image[top:end, left:last]))
        y, bottom = ((side - top) * self.upscale for side in (rectangle.top, rectangle.bottom))
        x, right = ((side - left) * self.upscale for side in (rectangle.left, rectangle.right))
        return out[y:bottom, x:right]

    def tile_within(self, memory: int) -> int:
        """The largest `tile` (at most MAX_TILE) with which a call takes no more than `memory` bytes, besides image and
        whole result. Raises TooLittleMemory if not even the smallest does.
        """
        for tile in range(MAX_TILE, 0, -CELL):
            side = tile + 2 * self.halo + 2 * self.grid
            part = 4 * IMAGE_CHANNELS * side**2 * (1 + self.upscale**2)  # in and out
            needed = self._native.workspace_bytes(side, side) + 2 * part  # and out once more while it is converted
            if needed <= memory:
                return tile
        raise TooLittleMemory(needed, memory)

    def describe(self) -> list[str]:
        """One line per step: the ops fused into it and the kernel that runs it."""
        return self._native.describe()

    def step_seconds(self) -> list[float]:
        """Seconds that each step of `describe()` took in the last run (of the last tile) of at least 2x2 pixels."""
        return self._native.step_seconds()

    def _native_for(self, image: Array) -> _native.Engine:
        if min(image.shape[:2]) > 1:
            return self._native
        if self._narrow is None:  # of two threads that come here, either's will do
            self._narrow = self._compiled(*self._plain)  # for one pixel's width a collapsed tail does not hold
        return self._narrow

    def _compiled(self, program: Program, tensors: Mapping[str, np.ndarray]) -> _native.Engine:
        return compiled(program, tensors, *self._settings)

    def _run(self, native: _native.Engine, image: Array) -> Array:
        h, w, _ = image.shape
        out = np.empty((h * self.upscale, w * self.upscale, IMAGE_CHANNELS), np.float32)
        native.run(image, out)
        return out


def available_isas() -> list[str]:
    """Instruction sets that this CPU can run, slowest first: ref, avx2, avxvnni, avx512vnni, amx; or ref, neon."""
    return _native.available_isas()


def qconv_kernel_names(isa: str | None = None) -> list[str]:
    """The kernels of an instruction set (as for `Engine`) for low-bit convolutions, best first."""
    return _native.qconv_kernel_names(isa or "")


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiled(
    program: Program, tensors: Mapping[str, np.ndarray], channels: int, threads: int, isa: str = "", kernel: str = ""
) -> _native.Engine:
    """The native engine of a program whose image has so many channels."""
    ops = [native_op(op, tensors) for op in program.ops]
    return _native.Engine(ops, program.output, channels, threads, isa, kernel)


def eight_bits(
    program: Program, tensors: Mapping[str, np.ndarray], threads: int, isa: str
) -> tuple[Program, dict[str, Array]]:
    """`with_eight_bits` on an instruction set, as for `Engine`."""

    def run(part: Program, image: Array) -> Array:
        native = compiled(part, tensors, IMAGE_CHANNELS, threads, isa)
        h, w, _ = image.shape
        out = np.empty((h * native.upscale, w * native.upscale, native.output_channels), np.float32)
        native.run(image, out)
        return out

    return with_eight_bits(program, tensors, run)


def native_op(op: Op, tensors: Mapping[str, np.ndarray]) -> "_native.OpTuple":
    """The op with its arrays: float32 as they are, weight codes unpacked to int8 (O, K, K, I).

    An odd_qconv2d is a qconv2d whose weights are a bit wider.
    """
    arrays = {role: tensors[name] for role, name in op.tensors.items()}
    attrs, kind = {name: float(value) for name, value in op.attrs.items()}, op.kind
    if kind in QCONVS:
        arrays["weight"] = weight_codes(op, arrays["weight"])
    if kind == "odd_qconv2d":
        kind, attrs["weight_bits"] = "qconv2d", attrs["weight_bits"] + 1
    return kind, list(op.inputs), op.output, attrs, arrays


def _checked(image: Array) -> Array:
    wanted = f"float32 (H, W, {IMAGE_CHANNELS})"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: wanted {wanted}, got {type(image).__name__}")
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != IMAGE_CHANNELS or image.size == 0:
        raise ValueError(f"image: wanted {wanted}, got {image.dtype} {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("image: wanted finite numbers, got NaN or infinity")
    return np.ascontiguousarray(image)


def _up(place: int | Fraction, grid: int) -> int:
    return math.ceil(place / grid) * grid


def _grid(program: Program) -> int:
    """The least common multiple of cells, windows and what is padded to: a part is padded as the whole is."""
    return math.lcm(CELL, period(program), *(int(op.attrs["multiple"]) for op in program.ops if op.kind == "pad"))


def _halo(program: Program, tensors: Mapping[str, np.ndarray], grid: int) -> int:
    """How many LR pixels around a part its result depends on, bit for bit; the part and they, from grid line to line.

    More than the receptive radius: where a convolution computes cells of CELL x CELL outputs at once, the rounding of
    each output depends on all inputs of its cell.
    """
    steps = list(trace(program, tensors))
    # Which pixels before and behind a part, which begins and ends at multiples of the grid, each value is needed at:
    # from the last op to the first, in LR pixels.
    before, behind = {program.output: Fraction(0)}, {program.output: Fraction(0)}
    for step in reversed(steps):
        for around, backwards in ((before, True), (behind, False)):
            needed = _needed(step, around[step.op.output], backwards)
            for name in step.op.inputs:
                around[name] = max(around.get(name, Fraction(0)), needed)
    return _up(max(before[IMAGE], behind[IMAGE]), grid)


def _needed(step: Step, around: Fraction, backwards: bool) -> Fraction:
    """How far an op reads, if its output is needed so far before or behind a multiple of the grid."""
    op, factor, kernel = step.op, step.inputs[0].factor, step.dims.get("K", 1)
    if op.kind == "pad":
        return around + int(op.attrs["multiple"]) - 1  # what is mirrored
    if op.kind in ATTENTIONS:
        window, shift = int(op.attrs["window"]), int(op.attrs["shift"])
        inside = shift if backwards else -shift  # where a window ends, seen outwards from the multiple
        return Fraction(_up(around + inside, window) - inside)
    if op.kind in ("conv2d", "edge_conv2d") and _native.conv2d_in_cells(kernel, step.inputs[0].channels):
        around = Fraction(_up(around * factor, CELL), factor)
    reach = max(kernel // 2, 1 if "E" in step.dims else 0)  # a pixel's class depends on its neighbours' being there
    return around + Fraction(reach, factor)


def rectangles(shape: tuple[int, ...], tile: int) -> Iterator[Rectangle]:
    """The squares of side `tile` that cover an image of this shape row by row, cut off at its edges.

    Raises ValueError for tile < 1.
    """
    if tile < 1:
        raise ValueError(f"tile: wanted a side of at least 1 pixel, got {tile}")
    height, width = shape[:2]
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            yield Rectangle(y, x, min(y + tile, height), min(x + tile, width))
