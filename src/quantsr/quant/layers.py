"""Layers that compute with fake-quantized weights and inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.quant.config import MIN_SCALE, QuantConfig


class QuantConv2d(nn.Conv2d):
    """y = conv(act_quantizer(x), weight_quantizer(weight)) + bias; (N, C, H, W), zero padding after quantization.

    The bias stays in full precision. Built from a plain convolution by `convert.quantize`.
    """

    weight_quantizer: nn.Module
    act_quantizer: nn.Module
    observing: bool

    @classmethod
    def swap(cls, conv: nn.Conv2d, config: QuantConfig, quantizer: type[nn.Module]) -> "QuantConv2d":
        """Takes over a convolution: its weight and bias are shared, not copied."""
        plain = conv.groups == 1 and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if conv.bias is None or not plain:
            raise ValueError(f"got {conv}, wanted a dense one of stride and dilation 1, zero padding, with bias")
        layer = cls(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.weight_quantizer = quantizer(config.weight_bits, temperature=config.temperature)
        layer.act_quantizer = quantizer(
            config.act_bits, temperature=config.temperature, shift_channels=conv.in_channels
        )
        layer.weight_quantizer.init_from(layer.weight)
        layer.observing = False
        return layer

    @torch.no_grad()
    def keep_scales_positive(self) -> None:
        """To be called after an optimiser step: a step of 0 or less would leave a dead layer without gradient."""
        for quantizer in (self.weight_quantizer, self.act_quantizer):
            quantizer.scale.clamp_(min=MIN_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:  # calibration looks at the float network
            self.act_quantizer.observe(x)
            return super().forward(x)
        weight = self.weight_quantizer(self.weight)
        return functional.conv2d(self.act_quantizer(x), weight, self.bias, padding=self.padding)
