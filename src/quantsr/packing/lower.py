"""Model -> ops: a trained `models.EDSR`, quantized or float, as a packed model.

Every product that the engine needs (scale_a * scale_w, tau / scale, gains of skipped blocks) is made here in float64
and rounded to float32 once; all executions use the stored value.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantsr.models.edsr import EDSR
from quantsr.packing import bits
from quantsr.packing.ops import FLOAT_BITS, IMAGE, Op, PackedModel, Program, check_model
from quantsr.quant import NotPackable, QParams, QuantBlock, QuantConv2d, quantized_layers
from quantsr.quant.config import QuantConfig, code_range


def lower(
    network: EDSR,
    *,
    name: str,
    quant: QuantConfig | None,
    depths: Iterable[str] = ("full",),
    training: Mapping[str, Any] | None = None,
    licence: str = "",
) -> PackedModel:
    """The network's programs, one per depth, sharing their tensors.

    name: of the model. quant: how it was quantized, None for a float network. training: free-form record of how the
    weights came about. Raises NotPackable for a quantizer or placement that the format cannot say, and a
    PackedModelError for non-finite weights.
    """
    _check_placement(network)
    depths = tuple(depths)
    tensors: dict[str, NDArray[Any]] = {}
    programs = {depth: _Lowering(network, tensors, depth).program() for depth in depths}
    info = {
        "name": name,
        "architecture": "quantsr-c",
        "upscale": network.upscale,
        "channels": network.channels,
        "blocks": len(network.body),
        "upsampler": network.upsampler_kind,
        "weight_bits": quant.weight_bits if quant else FLOAT_BITS,
        "act_bits": quant.act_bits if quant else FLOAT_BITS,
        "quantizer": quant.quantizer if quant else "none",
        "placement": quant.placement if quant else "none",
        "quantized_layers": list(quantized_layers(network)),
        "depths": {depth: list(network.kept(depth)) for depth in depths},
        "parameters": sum(p.numel() for m in network.modules() if isinstance(m, nn.Conv2d) for p in _weights(m)),
        "training": dict(training or {}),
        "licence": licence,
    }
    model = PackedModel(info, programs, tensors)
    check_model(model)
    return model


def _check_placement(network: EDSR) -> None:
    for name, module in network.named_modules():
        if isinstance(module, QuantBlock):
            raise NotPackable(
                f"{name}: got a block that quantizes its shortcut or output, wanted quantized convolution inputs "
                "alone, as in placement 'body': the packed format knows nothing else. It runs in torch only"
            )


def _weights(conv: nn.Conv2d) -> list[Tensor]:
    return [conv.weight] if conv.bias is None else [conv.weight, conv.bias]


class _Lowering:
    """Emits one program; tensors of several programs meet in one dict, under the names of the network's layers."""

    def __init__(self, network: EDSR, tensors: dict[str, NDArray[Any]], depth: str) -> None:
        self.network, self.tensors, self.depth = network, tensors, depth
        self.ops: list[Op] = []

    def program(self) -> Program:
        mean = self.network.mean.flatten().numpy()
        value = self.affine("input", IMAGE, np.ones(3), -mean)
        head = self.conv("head", self.network.head, value)
        stream = self.body(self.network.kept(self.depth), head)
        value = self.conv("after_body", self.network.after_body, stream)
        value = self.emit(Op("residual", (head, value), "long_skip", {"gain": 1.0}))
        for index, layer in enumerate(self.network.upsampler):
            name = f"upsampler.{index}"
            if isinstance(layer, nn.PixelShuffle):
                value = self.emit(Op("pixel_shuffle", (value,), name, {"upscale": layer.upscale_factor}))
            else:
                value = self.conv(name, layer, value)
        output = self.affine("output", value, np.ones(3), mean)
        return Program(tuple(self.ops), output)

    def body(self, kept: tuple[int, ...], stream: str) -> str:
        gain = 1.0  # product of the gains that the stream still lacks
        for index, block in enumerate(self.network.body):
            own = float(block.gain.detach().double())
            if index not in kept:
                gain *= own
                continue
            stream = self.block(f"body.{index}", block, stream, gain, own * gain)
            gain = 1.0
        if gain == 1.0:
            return stream
        return self.scaled(f"skipped.{self.depth}", stream, self.network.channels, gain)

    def block(self, name: str, block: nn.Module, stream: str, gain_in: float, gain: float) -> str:
        """A kept block whose input is `gain_in` times the stream; `gain` multiplies the stream on the shortcut."""
        value = self.conv(f"{name}.conv1", block.conv1, stream, gain_in)
        value = self.emit(Op("relu", (value,), f"{name}.relu"))
        value = self.conv(f"{name}.conv2", block.conv2, value)
        return self.emit(Op("residual", (stream, value), name, {"gain": _float32(gain)}))

    def conv(self, name: str, conv: nn.Conv2d, value: str, gain: float = 1.0) -> str:
        if isinstance(conv, QuantConv2d):
            return self.qconv2d(name, conv, value, gain)
        weight, bias = _array(conv.weight), _array(conv.bias)
        if gain != 1.0:
            value = self.scaled(f"{name}.gain.{self.depth}", value, weight.shape[1], gain)
        tensors = {
            "weight": self.store(f"{name}.weight", weight.transpose(0, 2, 3, 1)),  # (O, K, K, I)
            "bias": self.store(f"{name}.bias", bias),
        }
        return self.emit(Op("conv2d", (value,), name, {}, tensors))

    def qconv2d(self, name: str, conv: QuantConv2d, value: str, gain: float) -> str:
        codes, weight, act = _codes(name, conv)
        scale = float(act.scale)
        shift = np.zeros(conv.in_channels) if act.shift is None else _array(act.shift)
        offset = np.broadcast_to(shift / scale - act.qmin, (conv.in_channels,))
        quantized = self.emit(
            Op(
                "quantize",
                (value,),
                f"{name}.codes",
                {"inv": _float32(gain / scale), "levels": act.qmax - act.qmin},
                {"offset": self.store(f"{name}.offset", offset)},
            )
        )
        attrs = {
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel": int(conv.kernel_size[0]),
            "weight_bits": weight.bits,
            "act_bits": act.bits,
            "zero": -act.qmin,
        }
        stored = codes.permute(0, 2, 3, 1).numpy().astype(np.int16) + 2 ** (weight.bits - 1)  # (O, K, K, I)
        mul = np.broadcast_to(scale * _array(weight.scale), (conv.out_channels,))
        tensors = {
            "weight": self.store(f"{name}.weight", bits.pack(np.ascontiguousarray(stored, np.uint8), weight.bits)),
            "mul": self.store(f"{name}.mul", mul),
            "bias": self.store(f"{name}.bias", _array(conv.bias)),
        }
        return self.emit(Op("qconv2d", (quantized,), name, attrs, tensors))

    def affine(self, name: str, value: str, scale: NDArray[Any], offset: NDArray[Any]) -> str:
        tensors = {"scale": self.store(f"{name}.scale", scale), "offset": self.store(f"{name}.offset", offset)}
        return self.emit(Op("affine", (value,), name, {}, tensors))

    def scaled(self, name: str, value: str, channels: int, gain: float) -> str:
        return self.affine(name, value, np.full(channels, gain), np.zeros(channels))

    def emit(self, op: Op) -> str:
        self.ops.append(op)
        return op.output

    def store(self, name: str, array: NDArray[Any]) -> str:
        stored = np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.float32)
        shared = self.tensors.setdefault(name, stored)
        assert np.array_equal(shared, stored, equal_nan=True), f"programs disagree on {name}"
        return name


def _codes(name: str, conv: QuantConv2d) -> tuple[Tensor, QParams, QParams]:
    """Weight codes, and what they and those of the input stand for; NotPackable if the format cannot say it."""
    try:
        codes, weight = conv.weight_quantizer.codes(conv.weight.detach())
        _, act = conv.act_quantizer.codes(torch.zeros(1, conv.in_channels, 1, 1))
    except NotPackable as error:
        raise NotPackable(f"{name}: {error}. It runs in torch only") from error
    low, high = code_range(weight.bits, True)
    if weight.qmin < low or weight.qmax > high:
        raise NotPackable(f"{name}: got weight codes {weight.qmin}..{weight.qmax}, wanted some of {low}..{high}")
    if not act.qmin <= 0 <= act.qmax:
        raise NotPackable(f"{name}: got input codes {act.qmin}..{act.qmax}, wanted 0 among them, for the padding")
    return codes, weight, act


def _array(tensor: Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None  # every convolution here has a bias
    array: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array


def _float32(value: float) -> float:
    return float(np.float32(value))
