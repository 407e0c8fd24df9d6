"""Ops -> model: a packed network as one of PyTorch again, for training on, for other programs, for parity checks.

The inverse of `lower` up to float32 rounding of its products: scale = 1 / inv, shift = (offset + qmin) * scale. Its
quantizers are RLQ, whatever method the codes came from, if RLQ has such codes, else the method's own.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantsr.models.depth import DepthDynamic
from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinIR, WindowAttention
from quantsr.packing.ops import ATTENTIONS, QCONVS, weight_codes
from quantsr.packing.program import FLOAT_BITS, Op, PackedModel
from quantsr.quant import QParams, QuantConfig, QuantConv2d, Quantizer, QuantLinear, QuantProduct, quantize
from quantsr.quant.config import code_range


def lift(packed: PackedModel) -> DepthDynamic:
    """The fake-quantized (or float) network of a packed model, in eval mode, on the CPU."""
    info = packed.info
    network = _fresh(packed)
    if info["weight_bits"] != FLOAT_BITS:
        quantize(network, _config(packed))
    ops = {op.output: op for op in packed.programs["full"].ops}
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, QuantConv2d | QuantLinear):
                _fill_quantized(module, ops[name], ops[f"{name}.codes"], packed.tensors)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                weight = packed.tensors[ops[name].tensors["weight"]].transpose(0, 3, 1, 2)
                module.weight.copy_(_tensor(weight).view_as(module.weight))
                _fill(module.bias, ops[name], "bias", packed.tensors)
            elif isinstance(module, nn.LayerNorm):
                _fill(module.weight, ops[name], "scale", packed.tensors)
                _fill(module.bias, ops[name], "offset", packed.tensors)
            elif isinstance(module, WindowAttention):
                _fill(module.position_bias, ops[name], "position_bias", packed.tensors)
                if isinstance(module.scores, QuantProduct):
                    _fill_products(module, ops, name, packed.tensors)
        for index, block in enumerate(network.body):
            block.gain.fill_(float(ops[f"body.{index}"].attrs["gain"]))
    return network.eval()


def _fresh(packed: PackedModel) -> DepthDynamic:
    info = packed.info
    half, quarter = (len(info["depths"].get(depth, ())) for depth in ("half", "quarter"))
    half = half or max(info["blocks"] // 2, quarter)  # one that the file lacks: by default, but quarter within half
    quarter = quarter or min(info["blocks"] // 4, half)
    common: dict[str, Any] = {
        "upscale": info["upscale"],
        "channels": info["channels"],
        "blocks": info["blocks"],
        "half": half,
        "quarter": quarter,
        "ranking": _ranking(info["depths"], info["blocks"]),
    }
    if info["architecture"] != "quantsr-t":
        return EDSR(upsampler=info["upsampler"], **common)
    ops = packed.programs["full"].ops
    first = next(op for op in ops if op.kind in ATTENTIONS)
    (inner,) = {packed.tensors[op.tensors["bias"]].size for op in ops if op.output == "body.0.layers.0.expand"}
    return SwinIR(
        layers=sum(op.kind in ATTENTIONS and op.output.startswith("body.0.") for op in ops),
        heads=int(first.attrs["heads"]),
        window=int(first.attrs["window"]),
        mlp_ratio=inner // info["channels"],
        **common,
    )


def _config(packed: PackedModel) -> QuantConfig:
    info, ops = packed.info, packed.programs["full"].ops
    convs = [op for op in ops if op.kind in QCONVS]
    full = all(op.attrs["levels"] == 2 ** info["act_bits"] - 1 for op in ops if op.kind == "quantize")
    common = full and all(op.attrs["zero"] in (0, 2 ** (info["act_bits"] - 1)) for op in convs)
    muls = [packed.tensors[op.tensors["mul"]] for op in convs]
    return QuantConfig(
        info["weight_bits"],
        info["act_bits"],
        "rlq" if common else info["quantizer"],
        info["placement"],
        weight_grid="mid_rise" if any(op.kind == "odd_qconv2d" for op in convs) else "mid_tread",
        weight_granularity="per_tensor" if all((mul == mul[0]).all() for mul in muls) else "per_channel",
    )


def _ranking(depths: dict[str, list[int]], blocks: int) -> list[int]:
    """A ranking that keeps the same blocks at every depth the file has: the shallower nets first."""
    ranking: list[int] = []
    for kept in sorted(depths.values(), key=len):
        ranking += [block for block in kept if block not in ranking]
    return ranking + [block for block in range(blocks) if block not in ranking]


def _fill_quantized(
    layer: QuantConv2d | QuantLinear, conv: Op, codes: Op, tensors: dict[str, NDArray[np.generic]]
) -> None:
    act_scale = 1 / float(codes.attrs["inv"])
    weight_scale = tensors[conv.tensors["mul"]].astype(np.float64) / act_scale  # (O,)
    weight = weight_codes(conv, tensors[conv.tensors["weight"]]).transpose(0, 3, 1, 2)
    layer.weight.copy_(_tensor(weight.astype(np.float64) * weight_scale[:, None, None, None]).view_as(layer.weight))
    _fill(layer.bias, conv, "bias", tensors)
    scale = weight_scale if (weight_scale != weight_scale[0]).any() else weight_scale[0]
    weight_bits = int(conv.attrs["weight_bits"])
    step = 2 if conv.kind == "odd_qconv2d" else 1
    low, high = (step * code + step - 1 for code in code_range(weight_bits, True))
    layer.weight_quantizer.restore(QParams(weight_bits, low, high, torch.tensor(scale), step=step))
    offset = tensors[codes.tensors["offset"]].astype(np.float64)
    _restore(layer.act_quantizer, act_scale, offset, int(conv.attrs["zero"]), int(codes.attrs["levels"]))


def _fill_products(attention: WindowAttention, ops: dict[str, Op], name: str, tensors: dict[str, NDArray[Any]]) -> None:
    """Steps and shifts of queries, keys and values come from what makes their codes, those of the softmax's results
    from the op itself.
    """
    attrs, scaled, levels = ops[name].attrs, ops[f"{name}.scaled"], int(ops[f"{name}.codes"].attrs["levels"])
    shape = (3, attention.heads, -1)
    inv, offset = (tensors[scaled.tensors[role]].astype(np.float64).reshape(shape) for role in ("scale", "offset"))
    scores: Any = attention.scores
    mixture: Any = attention.mixture
    factors = {"query": inv.shape[2] ** -0.5, "key": 1.0, "value": 1.0}
    quantizers = (scores.left_quantizer, scores.right_quantizer, mixture.right_quantizer)
    for quantizer, (part, factor), steps, offsets in zip(quantizers, factors.items(), inv, offset, strict=True):
        _restore(quantizer, factor / steps[0, 0], offsets[:, 0], int(attrs[f"{part}_zero"]), levels)
    offsets, zero = tensors[ops[name].tensors["softmax_offset"]].astype(np.float64), int(attrs["softmax_zero"])
    _restore(mixture.left_quantizer, 1 / attrs["softmax_inv"], offsets, zero, int(attrs["softmax_levels"]))


def _restore(quantizer: Quantizer, scale: float, offset: NDArray[np.float64], zero: int, levels: int) -> None:
    """An activation's quantizer; offset: of each channel, in steps from the least code."""
    shift = torch.from_numpy((offset - zero) * scale)
    quantizer.restore(QParams(levels.bit_length(), -zero, levels - zero, torch.tensor(scale), shift))


def _fill(parameter: Tensor | None, op: Op, role: str, tensors: dict[str, NDArray[np.generic]]) -> None:
    assert parameter is not None
    parameter.copy_(_tensor(tensors[op.tensors[role]]))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
