"""The plain float program of a packed one."""

import numpy as np
from packing.tiny import random_image, tiny_model

from quantsr import reference
from quantsr.dequantize import without_quantizers
from quantsr.packing.ops import weight_codes


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
