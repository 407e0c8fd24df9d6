"""Float super-resolution networks. None of them knows that it may be quantized."""

from quantsr.models.blocks import ResidualBlock
from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinIR, SwinLayer

MODELS = {"edsr": EDSR, "swinir": SwinIR}

ALIKE = (ResidualBlock, SwinLayer)  # many of a kind in a network: compiled one by one, they share a compilation
