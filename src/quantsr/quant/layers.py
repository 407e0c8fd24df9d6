"""Layers and blocks that compute with fake-quantized weights and activations."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.quant.config import QuantConfig
from quantsr.quant.quantizer import Method, Quantizer, Raw


class QuantConv2d(nn.Conv2d):
    """y = conv(act_quantizer(x), weight_quantizer(weight)) + bias; (N, C, H, W), zero padding after quantization.

    The bias stays in full precision. Built from a plain convolution by `convert.quantize`.
    """

    weight_quantizer: Quantizer
    act_quantizer: Quantizer

    @classmethod
    def swap(cls, conv: nn.Conv2d, config: QuantConfig, method: Method, *, raw_input: bool = False) -> "QuantConv2d":
        """Takes over a convolution: its weight and bias are shared, not copied."""
        plain = conv.groups == 1 and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if conv.bias is None or not plain:
            raise ValueError(f"got {conv}, wanted a dense one of stride and dilation 1, zero padding, with bias")
        layer = cls(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.weight_quantizer = method.weight(config, conv.out_channels)
        layer.act_quantizer = Raw(config.act_bits) if raw_input else method.act(config, conv.in_channels)
        layer.weight_quantizer.init_from(layer.weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        # Calibration looks at the float network.
        weight = self.weight if self.act_quantizer.observing else self.weight_quantizer(self.weight)
        return functional.conv2d(self.act_quantizer(x), weight, self.bias, padding=self.padding)


class QuantBlock(nn.Module):
    """A residual block with quantizers beside those of its convolutions; (N, C, H, W) throughout.

    y = gain * shortcut_quantizer(x) + branch_quantizer(conv2(relu(conv1(x)))), where x is the block's input after
    input_quantizer. Built from a block that has conv1, conv2, gain and skip; they keep their names.
    """

    def __init__(self, block: nn.Module, config: QuantConfig, method: Method, points: tuple[str, ...]) -> None:
        """points: which of input, shortcut, branch are quantized here. If input is, conv1 takes what it gives."""
        super().__init__()
        self.conv1 = QuantConv2d.swap(block.conv1, config, method, raw_input=True)
        self.conv2 = QuantConv2d.swap(block.conv2, config, method)
        self.gain = block.gain

        def quantizer(point: str, channels: int) -> Quantizer:
            return method.act(config, channels) if point in points else Raw(config.act_bits)

        self.input_quantizer = quantizer("input", self.conv1.in_channels)
        self.shortcut_quantizer = quantizer("shortcut", self.conv1.in_channels)
        self.branch_quantizer = quantizer("branch", self.conv2.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_quantizer(x)
        branch = self.conv2(torch.relu(self.conv1(x)))
        return self.gain * self.shortcut_quantizer(x) + self.branch_quantizer(branch)

    def skip(self, x: Tensor) -> Tensor:
        return self.gain * x
