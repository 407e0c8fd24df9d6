"""How much faster the shallower depths are: python benchmarks/depth.py [--blocks 32] [--upsampler direct] [--side 256]

Random W4A4 weights, x4, 64 channels; the speed does not depend on their values. Depths take turns; CPU time of one
thread, medians. `body_share` is the part of the full time that blocks take, from full and quarter depth;
`bound` is what it allows, as the rest runs at every depth. Writes benchmarks/results/depth-UPSAMPLER.json.
Needs the extra `train`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from quantsr.engine import Engine
from quantsr.models.edsr import EDSR
from quantsr.packing.lower import lower
from quantsr.packing.program import DEPTHS, PackedModel
from quantsr.quant import QuantConfig, calibrate, quantize

ROUNDS = 15


def network(blocks: int, upsampler: str) -> PackedModel:
    torch.manual_seed(0)
    made = EDSR(upscale=4, channels=64, blocks=blocks, upsampler=upsampler)
    config = QuantConfig(weight_bits=4, act_bits=4)
    quantize(made, config)
    calibrate(made, [torch.rand(1, 3, 48, 48)])
    return lower(made, name="random", quant=config, depths=DEPTHS)


def measure(packed: PackedModel, side: int, isa: str | None) -> dict[str, float]:
    """Milliseconds of each depth."""
    engines = {depth: Engine(packed, depth, threads=1, isa=isa) for depth in DEPTHS}
    image = np.random.default_rng(0).random((side, side, 3), np.float32)
    times: dict[str, list[float]] = {depth: [] for depth in DEPTHS}
    for turn in range(-1, ROUNDS):  # the first one warms up
        for depth, engine in engines.items():
            start = time.process_time()
            engine(image)
            if turn >= 0:
                times[depth].append(time.process_time() - start)
    return {depth: 1e3 * float(np.median(values)) for depth, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--upsampler", choices=("direct", "paper"), default="direct")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--isa", help="default: the fastest")
    args = parser.parse_args()
    packed = network(args.blocks, args.upsampler)
    ms = measure(packed, args.side, args.isa)
    shares = {depth: len(packed.info["depths"][depth]) / args.blocks for depth in DEPTHS}
    body = (ms["full"] - ms["quarter"]) / (1 - shares["quarter"])  # from two depths: the rest is the same in both
    found = {
        "isa": Engine(packed, isa=args.isa).isa,
        "settings": vars(args),
        "cpu_ms": ms,
        "speedup": {depth: ms["full"] / ms[depth] for depth in DEPTHS},
        "body_share": body / ms["full"],
        "bound": {depth: ms["full"] / (ms["full"] - body * (1 - shares[depth])) for depth in DEPTHS},
    }
    path = Path(__file__).parent / f"results/depth-{args.upsampler}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
