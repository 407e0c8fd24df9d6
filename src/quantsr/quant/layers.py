"""Layers and blocks that compute with fake-quantized weights and activations."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.quant.config import QParams, QuantConfig
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
        layer.act_quantizer.bias_follows = True
        layer.weight_quantizer.init_from(layer.weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        # Calibration looks at the float network.
        weight = self.weight if self.act_quantizer.observing else self.weight_quantizer(self.weight)
        kind = self.weight.dtype  # quantizers give float32 for less
        return functional.conv2d(self.act_quantizer(x).to(kind), weight.to(kind), self.bias, padding=self.padding)

    def input_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        """Codes of an input, same shape, and what they stand for. Raises NotPackable where there are none."""
        return self.act_quantizer.codes(x)


class QuantLinear(nn.Linear):
    """y = act_quantizer(x) @ weight_quantizer(weight)^T + bias; (N, ..., C) -> (N, ..., O).

    The bias stays in full precision. Its quantizers see x as (N, C, pixels, 1), so a channel is one of the last axis.
    """

    weight_quantizer: Quantizer
    act_quantizer: Quantizer

    @classmethod
    def swap(cls, linear: nn.Linear, config: QuantConfig, method: Method) -> "QuantLinear":
        """Takes over a linear layer: its weight and bias are shared, not copied."""
        if linear.bias is None:
            raise ValueError(f"got {linear}, wanted one with bias")
        layer = cls(linear.in_features, linear.out_features)
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = method.weight(config, linear.out_features)
        layer.act_quantizer = method.act(config, linear.in_features)
        layer.act_quantizer.bias_follows = True
        layer.weight_quantizer.init_from(layer.weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        # Calibration looks at the float network.
        weight = self.weight if self.act_quantizer.observing else self.weight_quantizer(self.weight)
        kind = self.weight.dtype  # quantizers give float32 for less
        x = _as_last(self.act_quantizer(_as_second(x)), x)
        return functional.linear(x.to(kind), weight.to(kind), self.bias)

    def input_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        """As `QuantConv2d.input_codes`."""
        codes, params = self.act_quantizer.codes(_as_second(x))
        return _as_last(codes, x), params


class QuantProduct(nn.Module):
    """left_quantizer(a) @ right_quantizer(b), both (N, heads, ...): a product of activations; a channel is a head.

    What is hidden, as in `Product`, stays 0: a quantizer's shift does not make it count.
    """

    def __init__(self, product: nn.Module, config: QuantConfig, method: Method) -> None:
        """product: what it stands for; it has `heads`."""
        super().__init__()
        self.heads = product.heads
        self.left_quantizer = method.act(config, product.heads)
        self.right_quantizer = method.act(config, product.heads)

    def forward(self, a: Tensor, b: Tensor, hidden: Tensor | None = None) -> Tensor:
        left = self.left_quantizer(a)
        if hidden is not None:
            left = left.unflatten(0, (-1, len(hidden))).masked_fill(hidden[:, None], 0).flatten(0, 1)
        return left @ self.right_quantizer(b)


def _as_second(x: Tensor) -> Tensor:
    """(N, ..., C) -> (N, C, pixels, 1)."""
    return x.reshape(x.shape[0], -1, x.shape[-1], 1).transpose(1, 2)


def _as_last(x: Tensor, like: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(like.shape)


QuantLayer = QuantConv2d | QuantLinear


@torch.no_grad()
def keep_mean(layer: QuantLayer) -> None:
    """Corrects the bias so that, over what calibration saw, the mean of the output is what it was in float.

    Bias correction (Nagel et al., ICCV 2019, arXiv 1906.04721). Only where the quantizer of the input has `means`; the
    outermost pixels of a convolution, where zeros are padded, are not corrected for.
    """
    if layer.act_quantizer.means is not None:
        before, after = layer.act_quantizer.means
        layer.bias += response(layer.weight, before) - response(layer.weight_quantizer(layer.weight), after)


def response(weight: Tensor, level: Tensor) -> Tensor:
    """Output (O,), without bias, of a weight (O, I, K, K) or (O, I) if all pixels are at level, (I,) or (1,)."""
    return weight.reshape(*weight.shape[:2], -1).sum(2) @ level.expand(weight.shape[1])


class QuantBlock(nn.Module):
    """A residual block with quantizers beside those of its convolutions; (N, C, H, W) throughout.

    y = gain * shortcut_quantizer(x) + branch_quantizer(conv2(relu(conv1(x)))), where x is the block's input after
    input_quantizer. Built from a block that has conv1, conv2 and gain; they keep their names.
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
