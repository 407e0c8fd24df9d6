"""How far the pixels of a program's output see."""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from quantsr.packing.checks import trace
from quantsr.packing.ops import ATTENTIONS, period
from quantsr.packing.program import IMAGE, Program, Step


def receptive_radius(program: Program, tensors: Mapping[str, np.ndarray]) -> int:
    """How many input pixels beyond its own an output pixel can see, in each direction.

    The pixels of the output that belong to input pixel (y, x) depend only on input pixels at most this far away. Kernel
    radii count in units of their own resolution; ceil(ceil(a/m)/n) = ceil(a/(m*n)) makes one rounding at the end exact.
    How far a pixel sees in a window depends on its place there, so places are followed along each axis, both ways.
    """
    steps, places = list(trace(program, tensors)), range(period(program))
    farthest = Fraction(0)
    for way in (1, -1):
        reach = {IMAGE: [Fraction(0) for _ in places]}  # of each value, by place modulo the period
        for step in steps:
            before = [max(reach[name][place] for name in step.op.inputs) for place in places]
            reach[step.op.output] = [_reach(step, place, way, before) for place in places]
        farthest = max(farthest, *reach[program.output])
    return math.ceil(farthest)


def _reach(step: Step, place: int, way: int, before: list[Fraction]) -> Fraction:
    """How far a pixel at a place sees one way, if the pixels that the op reads see as far as `before` says."""
    if step.op.kind in ATTENTIONS:
        window = int(step.op.attrs["window"])
        first = place - (place - int(step.op.attrs["shift"])) % window
        return max(way * (read - place) + before[read % len(before)] for read in range(first, first + window))
    pixels = step.dims.get("K", 1) // 2
    if "E" in step.dims:
        pixels = max(pixels, 1)  # a pixel's class depends on whether it has neighbours
    radius = Fraction(pixels, step.inputs[0].factor)
    whole = math.ceil(radius)
    return max(min(radius, Fraction(d)) + before[(place + way * d) % len(before)] for d in range(-whole, whole + 1))
