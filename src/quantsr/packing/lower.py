"""Model -> ops: a trained `models.EDSR` or `models.SwinIR`, quantized or float, as a packed model.

Every product that the engine needs (scale_a * scale_w, tau / scale, gains of skipped blocks) is made here in float64
and rounded to float32 once; all executions use the stored value.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantsr.models.depth import DepthDynamic
from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinGroup, SwinIR, SwinLayer, WindowAttention
from quantsr.packing import bits
from quantsr.packing.checks import check_model
from quantsr.packing.ops import ODD_BITS
from quantsr.packing.program import FLOAT_BITS, IMAGE, Op, PackedModel, PackedModelError, Program, TensorError
from quantsr.quant import NotPackable, QParams, QuantBlock, QuantConv2d, QuantLinear, QuantProduct, quantized_layers
from quantsr.quant.config import QuantConfig, code_range


def lower(
    network: DepthDynamic,
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
    PackedModelError for non-finite weights and what else no file may hold.
    """
    _check_placement(network)
    depths = tuple(depths)
    tensors: dict[str, NDArray[Any]] = {}
    architecture, lowering = _KINDS[type(network)]
    programs = {depth: lowering(network, tensors, depth).program() for depth in depths}
    info = {
        "name": name,
        "architecture": architecture,
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
        "parameters": sum(p.numel() for n, p in network.named_parameters() if "quantizer" not in n and "gain" not in n),
        "training": dict(training or {}),
        "licence": licence,
    }
    model = PackedModel(info, programs, tensors)
    try:
        check_model(model)
    except PackedModelError as error:  # there is no file that its remedy could mean
        raise type(error)(str(error).removesuffix(f" {error.remedy}")) from error
    return model


def _check_placement(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, QuantBlock):
            raise NotPackable(
                f"{name}: got a block that quantizes its shortcut or output, wanted quantized convolution inputs "
                "alone, as in placement 'body': the packed format knows nothing else. It runs in torch only"
            )
        if isinstance(module, WindowAttention) and len(_quantized_products(module)) == 1:
            raise NotPackable(f"{name}: got one quantized product of attention, wanted both or none")


class _Lowering:
    """Emits one program; tensors of several programs meet in one dict, under the names of the network's layers."""

    def __init__(self, network: Any, tensors: dict[str, NDArray[Any]], depth: str) -> None:
        self.network, self.tensors, self.depth = network, tensors, depth
        self.ops: list[Op] = []

    def program(self) -> Program:
        raise NotImplementedError

    def block(self, name: str, block: Any, stream: str, own: float, lacks: float) -> str:
        """A kept block of gain `own`, whose input is `lacks` times the stream."""
        raise NotImplementedError

    def body(self, stream: str) -> str:
        kept, lacks = self.network.kept(self.depth), 1.0  # product of the gains that the stream still lacks
        for index, block in enumerate(self.network.body):
            own = float(block.gain.detach().double())
            if index not in kept:
                lacks *= own
                continue
            stream = self.block(f"body.{index}", block, stream, own, lacks)
            lacks = 1.0
        if lacks == 1.0:
            return stream
        return self.scaled(f"skipped.{self.depth}", stream, self.network.channels, lacks)

    def head(self, image: str) -> str:
        mean = self.network.mean.flatten().numpy()
        return self.conv("head", self.network.head, self.affine("input", image, np.ones(3), -mean))

    def tail(self, head: str, stream: str) -> str:
        """From what the last convolution of the trunk reads to the result."""
        value = self.residual("long_skip", head, self.conv("after_body", self.network.after_body, stream))
        for index, layer in enumerate(self.network.upsampler):
            name = f"upsampler.{index}"
            if isinstance(layer, nn.PixelShuffle):
                value = self.emit(Op("pixel_shuffle", (value,), name, {"upscale": layer.upscale_factor}))
            else:
                value = self.conv(name, layer, value)
        return self.affine("output", value, np.ones(3), self.network.mean.flatten().numpy())

    def conv(self, name: str, conv: nn.Conv2d | nn.Linear, value: str, gain: float = 1.0) -> str:
        """A convolution, or a linear layer: one of a single pixel. gain: what its input still lacks."""
        if isinstance(conv, QuantConv2d | QuantLinear):
            return self.qconv2d(name, conv, value, gain)
        weight, bias = _array(_kernel(conv.weight)), _array(conv.bias)
        if gain != 1.0:
            value = self.scaled(f"{name}.gain.{self.depth}", value, weight.shape[1], gain)
        tensors = {
            "weight": self.store(f"{name}.weight", weight.transpose(0, 2, 3, 1)),  # (O, K, K, I)
            "bias": self.store(f"{name}.bias", bias),
        }
        return self.emit(Op("conv2d", (value,), name, {}, tensors))

    def qconv2d(self, name: str, conv: QuantConv2d | QuantLinear, value: str, gain: float) -> str:
        codes, weight, act = _codes(name, conv)
        outputs, inputs, kernel, _ = codes.shape
        scale = float(act.scale)
        quantized = self.emit(
            Op(
                "quantize",
                (value,),
                f"{name}.codes",
                {"inv": _float32(gain / scale), "levels": act.qmax - act.qmin},
                {"offset": self.store(f"{name}.offset", _offset(act, inputs))},
            )
        )
        attrs = {
            "in_channels": inputs,
            "out_channels": outputs,
            "kernel": kernel,
            "weight_bits": weight.bits,
            "act_bits": act.bits,
            "zero": -act.qmin,
        }
        kind = "qconv2d" if weight.step == 1 else "odd_qconv2d"
        stored = codes.permute(0, 2, 3, 1).numpy().astype(np.int16)  # (O, K, K, I)
        stored = stored // weight.step + 2 ** (weight.bits - 1)
        mul = np.broadcast_to(scale * _array(weight.scale), (outputs,))
        tensors = {
            "weight": self.store(f"{name}.weight", bits.pack(np.ascontiguousarray(stored, np.uint8), weight.bits)),
            "mul": self.store(f"{name}.mul", mul),
            "bias": self.store(f"{name}.bias", _array(conv.bias)),
        }
        return self.emit(Op(kind, (quantized,), name, attrs, tensors))

    def norm(self, name: str, norm: nn.LayerNorm, value: str) -> str:
        tensors = {"scale": self.store(f"{name}.scale", _array(norm.weight))}
        tensors["offset"] = self.store(f"{name}.offset", _array(norm.bias))
        return self.emit(Op("layer_norm", (value,), name, {"epsilon": _float32(norm.eps)}, tensors))

    def residual(self, name: str, skip: str, branch: str, gain: float = 1.0) -> str:
        return self.emit(Op("residual", (skip, branch), name, {"gain": _float32(gain)}))

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


class _Convolutional(_Lowering):
    """`EDSR`."""

    def program(self) -> Program:
        head = self.head(IMAGE)
        output = self.tail(head, self.body(head))
        return Program(tuple(self.ops), output)

    def block(self, name: str, block: nn.Module, stream: str, own: float, lacks: float) -> str:
        value = self.conv(f"{name}.conv1", block.conv1, stream, lacks)
        value = self.emit(Op("relu", (value,), f"{name}.relu"))
        return self.residual(name, stream, self.conv(f"{name}.conv2", block.conv2, value), own * lacks)


class _Transformer(_Lowering):
    """`SwinIR`."""

    def program(self) -> Program:
        head = self.head(self.emit(Op("pad", (IMAGE,), "padded", {"multiple": self.network.window})))
        stream = self.body(self.norm("norm_in", self.network.norm_in, head))
        value = self.tail(head, self.norm("norm_out", self.network.norm_out, stream))
        output = self.emit(Op("crop", (value, IMAGE), "cropped", {"factor": self.network.upscale}))
        return Program(tuple(self.ops), output)

    def block(self, name: str, block: SwinGroup, stream: str, own: float, lacks: float) -> str:
        if lacks != 1.0:
            stream = self.scaled(f"{name}.gain.{self.depth}", stream, self.network.channels, lacks)
        value = stream
        for index, layer in enumerate(block.layers):
            value = self.layer(f"{name}.layers.{index}", layer, value)
        return self.residual(name, stream, self.conv(f"{name}.conv", block.conv, value), own)

    def layer(self, name: str, layer: SwinLayer, value: str) -> str:
        attention, inner = layer.attention, f"{name}.attention"
        qkv = self.conv(f"{inner}.qkv", attention.qkv, self.norm(f"{name}.norm1", layer.norm1, value))
        mixed = self.attention(inner, attention, qkv)
        value = self.residual(f"{name}.sum", value, self.conv(f"{inner}.projection", attention.projection, mixed))
        inside = self.conv(f"{name}.expand", layer.expand, self.norm(f"{name}.norm2", layer.norm2, value))
        inside = self.emit(Op("gelu", (inside,), f"{name}.gelu"))
        return self.residual(name, value, self.conv(f"{name}.contract", layer.contract, inside))

    def attention(self, name: str, attention: WindowAttention, qkv: str) -> str:
        attrs: dict[str, Any] = {key: getattr(attention, key) for key in ("heads", "window", "shift")}
        scale = (self.network.channels // attention.heads) ** -0.5
        tensors = {"position_bias": self.store(f"{name}.position_bias", _array(attention.position_bias))}
        if not _quantized_products(attention):
            return self.emit(Op("window_attention", (qkv,), name, attrs | {"scale": _float32(scale)}, tensors))
        query, key = _product_codes(f"{name}.scores", attention.scores)
        softmax, value = _product_codes(f"{name}.mixture", attention.mixture)
        step = float(softmax.scale)
        attrs |= {"query_zero": -query.qmin, "key_zero": -key.qmin, "value_zero": -value.qmin}
        attrs |= {"softmax_inv": _float32(1 / step), "softmax_zero": -softmax.qmin}
        attrs |= {"softmax_levels": softmax.qmax - softmax.qmin}
        attrs |= {"score_mul": _float32(float(query.scale * key.scale)), "mix_mul": _float32(step * float(value.scale))}
        tensors["softmax_offset"] = self.store(f"{name}.softmax_offset", _offset(softmax, attention.heads))
        codes = self.attention_codes(name, qkv, attention.heads, ((query, scale), (key, 1.0), (value, 1.0)))
        return self.emit(Op("qwindow_attention", (codes,), name, attrs, tensors))

    def attention_codes(self, name: str, qkv: str, heads: int, parts: tuple[tuple[QParams, float], ...]) -> str:
        """Codes of queries, keys and values, each multiplied by a factor: all of the same number of levels."""
        levels = [part.qmax - part.qmin for part, _ in parts]
        if len(set(levels)) > 1:
            got = " and ".join(f"{part.qmin}..{part.qmax}" for part, _ in parts)
            raise NotPackable(f"{name}: got codes {got} of queries, keys and values, wanted ranges of one length")
        depth = self.network.channels // heads
        inv = np.repeat([factor / float(part.scale) for part, factor in parts], heads * depth)
        offset = np.concatenate([np.repeat(_offset(part, heads), depth) for part, _ in parts])
        scaled = self.affine(f"{name}.scaled", qkv, inv, offset)
        zeros = {"offset": self.store(f"{name}.codes.offset", np.zeros(len(inv)))}
        return self.emit(Op("quantize", (scaled,), f"{name}.codes", {"inv": 1.0, "levels": levels[0]}, zeros))


_KINDS: dict[type, tuple[str, type[_Lowering]]] = {
    EDSR: ("quantsr-c", _Convolutional),
    SwinIR: ("quantsr-t", _Transformer),
}


def _codes(name: str, conv: QuantConv2d | QuantLinear) -> tuple[Tensor, QParams, QParams]:
    """Weight codes (O, I, K, K), what they and those of the input mean; NotPackable if the format cannot say it."""
    if not bool(conv.weight.isfinite().all()):  # its codes would be
        raise TensorError(f"{name}.weight: got NaN or infinity, wanted finite values")
    try:
        codes, weight = conv.weight_quantizer.codes(conv.weight.detach())
        _, act = conv.act_quantizer.codes(torch.zeros(1, conv.weight.shape[1], 1, 1))
    except NotPackable as error:
        raise NotPackable(f"{name}: {error}. It runs in torch only") from error
    if weight.step == 2 and weight.bits not in ODD_BITS:
        raise NotPackable(f"{name}: got a mid-rise grid of {weight.bits}-bit weights, wanted one of {ODD_BITS} bits")
    low, high = (weight.step * code + weight.step - 1 for code in code_range(weight.bits, True))
    if weight.qmin < low or weight.qmax > high:
        raise NotPackable(f"{name}: got weight codes {weight.qmin}..{weight.qmax}, wanted some of {low}..{high}")
    if not act.qmin <= 0 <= act.qmax:
        raise NotPackable(f"{name}: got input codes {act.qmin}..{act.qmax}, wanted 0 among them, for the padding")
    return _kernel(codes), weight, act


def _quantized_products(attention: WindowAttention) -> list[QuantProduct]:
    return [product for product in (attention.scores, attention.mixture) if isinstance(product, QuantProduct)]


def _product_codes(name: str, product: Any) -> tuple[QParams, QParams]:
    """What the codes of a QuantProduct's factors mean; NotPackable if the format cannot say it."""
    found = []
    for side, quantizer in (("left", product.left_quantizer), ("right", product.right_quantizer)):
        try:
            _, params = quantizer.codes(torch.zeros(1, product.heads, 1, 1))
        except NotPackable as error:
            raise NotPackable(f"{name}: {error}. It runs in torch only") from error
        if not params.qmin <= 0 <= params.qmax:
            raise NotPackable(f"{name}: got {side} codes {params.qmin}..{params.qmax}, wanted 0 among them")
        found.append(params)
    return found[0], found[1]


def _offset(params: QParams, channels: int) -> NDArray[np.float64]:
    """What is added to values in steps, for each channel, to make codes that begin at 0."""
    shift = np.zeros(channels) if params.shift is None else _array(params.shift)
    return np.broadcast_to(shift / float(params.scale) - params.qmin, (channels,))


def _kernel(weight: Tensor) -> Tensor:
    """(O, I, K, K) as it is, (O, I) of a linear layer with K = 1."""
    return weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))


def _array(tensor: Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None  # every layer here has a bias
    array: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array


def _float32(value: float) -> float:
    return float(np.float32(value))
