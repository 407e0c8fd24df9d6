"""The plain float program of a packed one."""

from dataclasses import replace

import numpy as np
from packing.tiny import random_image, tiny_model
from test_engine_products import make

from quantsr import reference
from quantsr.dequantize import without_quantizers
from quantsr.packing.ops import weight_codes
from quantsr.packing.program import Program


def test_each_convolution_is_the_low_bit_one_without_rounding_and_clipping():
    packed = tiny_model(channels=6, blocks=2)
    program = packed.programs["full"]
    plain, tensors = without_quantizers(program, packed.tensors)
    assert {op.kind for op in plain.ops} == {"affine", "conv2d", "relu", "residual", "pixel_shuffle"}
    values = reference.run_all(plain, tensors, random_image(9, 11))
    low = {op.output: op for op in program.ops}
    for op in plain.ops:
        if low[op.output].kind != "qconv2d":
            continue
        conv, quantizer = low[op.output], low[low[op.output].inputs[0]]
        inv, offset = quantizer.attrs["inv"], packed.tensors[quantizer.tensors["offset"]]
        exact = values[quantizer.inputs[0]].astype(float) * inv + offset - conv.attrs["zero"]  # codes, not rounded
        codes = weight_codes(conv, packed.tensors[conv.tensors["weight"]]).astype(float)
        wanted = reference._conv(exact, codes) * packed.tensors[conv.tensors["mul"]]
        wanted += packed.tensors[conv.tensors["bias"]]
        inside = np.s_[1:-1, 1:-1]  # at the border the packed network pads after the shift
        np.testing.assert_allclose(values[op.output][inside], wanted[inside], rtol=1e-4, atol=1e-4)


def test_a_float_program_stays_as_it_is():
    packed = tiny_model(blocks=0, upsampler="direct")
    plain, tensors = without_quantizers(packed.programs["full"], packed.tensors)
    assert plain == packed.programs["full"]
    assert tensors.keys() == packed.tensors.keys()


def test_one_weight_serves_several_scales():
    packed = tiny_model(channels=6, blocks=2)
    ops = [
        replace(op, tensors=op.tensors | {"weight": "b0.c1.weight"} if op.kind == "qconv2d" else op.tensors)
        for op in packed.programs["full"].ops
    ]
    plain, tensors = without_quantizers(Program(tuple(ops), packed.programs["full"].output), packed.tensors)
    low = {op.output: op for op in ops}
    for op in plain.ops:
        if low[op.output].kind == "qconv2d":
            scale = packed.tensors[low[op.output].tensors["mul"]] * low[low[op.output].inputs[0]].attrs["inv"]
            codes = weight_codes(low[op.output], packed.tensors["b0.c1.weight"])
            wanted = codes * scale[:, None, None, None]
            np.testing.assert_allclose(tensors[op.tensors["weight"]], wanted, rtol=1e-6)


def test_attention_is_the_one_on_codes_without_rounding():
    """Codes of no shift and of many steps would give what the plain one gives: those of its factors are exact here."""
    packed = make(1, 12)
    program = packed.programs["full"]
    plain, tensors = without_quantizers(program, packed.tensors)
    values, low = reference.run_all(plain, tensors, random_image(9, 11)), {op.output: op for op in program.ops}
    attention = next(op for op in program.ops if op.kind == "qwindow_attention")
    assert not {op.kind for op in plain.ops} & {"quantize", "qconv2d", "qwindow_attention"}
    quantizer = low[attention.inputs[0]]
    steps = values[quantizer.inputs[0]].astype(float) * quantizer.attrs["inv"] + packed.tensors[
        quantizer.tensors["offset"]
    ].astype(float)
    q, k, v = reference._heads(attention, steps)
    q, k, v = (x - attention.attrs[f"{part}_zero"] for x, part in ((q, "query"), (k, "key"), (v, "value")))
    bias = reference._biases(attention, {"position_bias": packed.tensors[attention.tensors["position_bias"]]})
    logits = q @ k.swapaxes(2, 3) * attention.attrs["score_mul"] + bias / reference.exact.LOG2_E
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * reference._seen_by(attention, steps)
    weights /= weights.sum(-1, keepdims=True)
    wanted = weights * attention.attrs["softmax_inv"] @ v * attention.attrs["mix_mul"]
    wanted = reference._image_of(attention, wanted, steps)
    np.testing.assert_allclose(values[attention.output], wanted, rtol=1e-4, atol=1e-4)
