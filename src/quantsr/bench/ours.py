"""Our engine as one of those measured."""

from collections import Counter

import numpy as np

from quantsr.bench.job import Job
from quantsr.engine import compiled, eight_bits
from quantsr.packing.collapse import collapse_tail
from quantsr.packing.program import IMAGE_CHANNELS


class Peer:
    """isa: an instruction set, or "" for $QUANTSR_ISA or the fastest. fast: 8 bits behind the body."""

    def __init__(self, job: Job, isa: str = "", fast: bool = False) -> None:
        part = job.low()
        program, tensors = part.program, part.tensors
        if part.channels == IMAGE_CHANNELS:  # a whole network: quantsr.engine does the same with each
            program, tensors = collapse_tail(program, tensors)
            if fast:
                program, tensors = eight_bits(program, tensors, job.threads, isa)
        self.engine = compiled(program, tensors, part.channels, job.threads, isa)
        self.image = job.pixels()
        h, w, _ = self.image.shape
        upscale = self.engine.upscale
        self.out = np.empty((h * upscale, w * upscale, self.engine.output_channels), np.float32)

    def run(self) -> None:
        self.engine.run(self.image, self.out)

    def result(self) -> np.ndarray:
        return self.out

    def kernels(self) -> Counter[str]:
        return Counter(line.rsplit(": ", 1)[1] for line in self.engine.describe() if "conv2d" in line)
