"""Which tensors of a network are quantized. Papers differ in this, so every place has a name that reports print.

"pams" is the block of colorjam/PAMS, `model/edsr.py`; zysxmu/DDTB, `model/edsr.py`, has the same, while its SRResNet is
as "body". "cadyq" is that of Cheeun/CADyQ, `model/edsr_cadyq.py` (Hong et al., "CADyQ: Content-Aware Dynamic
Quantization for Image Super-Resolution", ECCV 2022), without its choice of bits per image: weights and the branch's
output, 8 bits there, have the bits of the rest. In Cheeun/DAQ-pytorch, `src/model/common.py` and
`src/model/edsr.py`, both convolutions of a block have quantized weights and inputs and the shortcut is float: that is
"body" under another name. In all of them head, after-body convolution and upsampler stay float.

Of transformers: which layers QuantSR-T quantizes is not published beyond a class for linear layers in its released
code. Kai-Liu001/2DQuant and its followers quantize linear layers and both products of attention, no convolution.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from quantsr.quant.config import QuantConfig
from quantsr.quant.layers import QuantBlock, QuantConv2d, QuantLinear, QuantProduct
from quantsr.quant.quantizer import Method


@dataclass(frozen=True)
class Placement:
    """words: what is quantized. picks: by name and module. swap: the quantized module in its place."""

    words: str
    picks: Callable[[str, nn.Module], bool]
    swap: Callable[[nn.Module, QuantConfig, Method], nn.Module]


def _convolution(name: str, module: nn.Module) -> bool:
    return re.fullmatch(r"body\.\d+\.conv[12]", name) is not None and type(module) is nn.Conv2d


def _linear(name: str, module: nn.Module) -> bool:
    return name.startswith("body.") and type(module) is nn.Linear


def _product(name: str, module: nn.Module) -> bool:
    return name.startswith("body.") and name.endswith((".attention.scores", ".attention.mixture"))


def _group_convolution(name: str, module: nn.Module) -> bool:
    return re.fullmatch(r"body\.\d+\.conv", name) is not None and type(module) is nn.Conv2d


def _block(name: str, module: nn.Module) -> bool:
    parts = all(type(getattr(module, conv, None)) is nn.Conv2d for conv in ("conv1", "conv2"))
    return re.fullmatch(r"body\.\d+", name) is not None and parts and hasattr(module, "gain")


def _with(*points: str) -> Callable[[nn.Module, QuantConfig, Method], nn.Module]:
    return lambda block, config, method: QuantBlock(block, config, method, points)


def _swap_transformer(module: nn.Module, config: QuantConfig, method: Method) -> nn.Module:
    if isinstance(module, nn.Linear):
        return QuantLinear.swap(module, config, method)
    if isinstance(module, nn.Conv2d):
        return QuantConv2d.swap(module, config, method)
    return QuantProduct(module, config, method)


def _transformer(words: str, *predicates: Callable[[str, nn.Module], bool]) -> Placement:
    words = f"in every Swin layer weights and inputs of its four linear layers; {words}"

    def picks(name: str, module: nn.Module) -> bool:
        return any(predicate(name, module) for predicate in predicates)

    return Placement(words, picks, _swap_transformer)


BODY = Placement(
    "weights and inputs of both convolutions of every block; the shortcut is float", _convolution, QuantConv2d.swap
)

PLACEMENTS: dict[str, Placement] = {
    "body": BODY,
    "daq": BODY,
    "pams": Placement(
        "in every block the weights of both convolutions, the input of the second, the shortcut and the branch's "
        "output; the first convolution reads the float input",
        _block,
        _with("shortcut", "branch"),
    ),
    "cadyq": Placement(
        "in every block the weights of both convolutions, the block's input, quantized once for the first convolution "
        "and the shortcut, the input of the second convolution and the branch's output",
        _block,
        _with("input", "branch"),
    ),
    "linears": _transformer("attention's products and the groups' convolutions are float", _linear),
    "linears_products": _transformer(
        "both inputs of both of attention's products; the groups' convolutions are float", _linear, _product
    ),
    "linears_convolutions": _transformer(
        "weight and input of the convolution of every group; attention's products are float",
        _linear,
        _group_convolution,
    ),
}
