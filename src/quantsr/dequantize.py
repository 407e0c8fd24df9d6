"""A packed program as a plain float one: what other runtimes are given when they know no 4-bit activations.

Weights are the dequantized codes. The activation quantizers are dropped, so there is no rounding and no clipping, and
this is another function than the packed network: for timing, or as a start for another quantizer. What a quantizer
added before rounding (the shift) goes into the bias; that is exact except in the outermost pixels, where the packed
network pads after the shift. Of attention on codes, the shifts of queries, keys and values stay; that of what the
softmax gives is left out.
"""

from collections.abc import Mapping

import numpy as np

from quantsr.packing.ops import QCONVS, weight_codes
from quantsr.packing.program import Op, Program

Tensors = Mapping[str, np.ndarray]


def without_quantizers(program: Program, tensors: Tensors) -> tuple[Program, dict[str, np.ndarray]]:
    """The program without `quantize`, with `conv2d` for every `qconv2d` and `window_attention` for every
    `qwindow_attention`, and its tensors; values are named as before.
    """
    quantizers = {op.output: op for op in program.ops if op.kind == "quantize"}
    ops, kept = [], {}
    for op in program.ops:
        if op.kind == "quantize":
            continue
        if op.kind in QCONVS:
            plain, own = _plain(op, quantizers[op.inputs[0]], tensors)
        elif op.kind == "qwindow_attention":
            parts, plain, own = _plain_attention(op, quantizers[op.inputs[0]], tensors)
            ops.append(parts)
        else:
            plain, own = op, {name: tensors[name] for name in op.tensors.values()}
        ops.append(plain)
        kept.update(own)
    return Program(tuple(ops), program.output), kept


def _plain(conv: Op, quantizer: Op, tensors: Tensors) -> tuple[Op, dict[str, np.ndarray]]:
    """sum (x*inv + offset - zero)*w*mul + bias, in the order of a convolution of x."""
    codes = weight_codes(conv, tensors[conv.tensors["weight"]]).astype(np.float64)  # (O, K, K, I)
    weight = codes * tensors[conv.tensors["mul"]].astype(np.float64)[:, None, None, None]
    shift = tensors[quantizer.tensors["offset"]].astype(np.float64) - conv.attrs["zero"]  # (I,), in codes
    bias = tensors[conv.tensors["bias"]] + (weight * shift).sum((1, 2, 3))
    arrays = {"weight": weight * quantizer.attrs["inv"], "bias": bias}
    names = {role: f"{conv.output}.plain_{role}" for role in arrays}  # one packed tensor may serve several
    return (
        Op("conv2d", quantizer.inputs, conv.output, {}, names),
        {names[role]: array.astype(np.float32) for role, array in arrays.items()},
    )


def _plain_attention(attention: Op, quantizer: Op, tensors: Tensors) -> tuple[Op, Op, dict[str, np.ndarray]]:
    """Queries and keys in steps, which `score_mul` holds, and values in units; then attention; and the tensors."""
    attrs, table = attention.attrs, attention.tensors["position_bias"]
    offset = tensors[quantizer.tensors["offset"]].astype(np.float64)
    channels = len(offset) // 3
    zeros = np.repeat([attrs[f"{part}_zero"] for part in ("query", "key", "value")], channels)
    units = np.repeat([1.0, 1.0, attrs["mix_mul"] * attrs["softmax_inv"]], channels)
    arrays = {"scale": quantizer.attrs["inv"] * units, "offset": (offset - zeros) * units}
    names = {role: f"{attention.output}.plain_{role}" for role in arrays}
    parts = Op("affine", quantizer.inputs, f"{attention.output}.plain", {}, names)
    plain = {key: attrs[key] for key in ("heads", "window", "shift")} | {"scale": attrs["score_mul"]}
    return (
        parts,
        Op("window_attention", (parts.output,), attention.output, plain, {"position_bias": table}),
        {names[role]: array.astype(np.float32) for role, array in arrays.items()} | {table: tensors[table]},
    )
