"""A transformer of 60 channels, W4A4, x4, with random weights, to be timed:

python benchmarks/random_transformer.py t.safetensors
quantsr bench --model t.safetensors --size 128 --threads 1 --rounds 5 --each-isa --json OUT.json

Made from a seed and calibrated on noise; the speed does not depend on the values. Needs the extra `train`.
"""

import argparse
from pathlib import Path

import torch

from quantsr.models.swinir import SwinIR
from quantsr.packing import write
from quantsr.packing.lower import lower
from quantsr.packing.program import PackedModel
from quantsr.quant import QuantConfig, calibrate, quantize


def network() -> PackedModel:
    torch.manual_seed(0)
    made = SwinIR(upscale=4, channels=60, blocks=4, layers=6, heads=6, window=8)
    config = QuantConfig(weight_bits=4, act_bits=4, placement="linears_convolutions")
    quantize(made, config)
    calibrate(made, [torch.rand(1, 3, 48, 48)])
    return lower(made, name="random-transformer", quant=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the packed file")
    write(parser.parse_args().out, network())


if __name__ == "__main__":
    main()
