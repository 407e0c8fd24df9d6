"""ONNX Runtime on exported graphs against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from packing.tiny import random_image, tiny_model
from test_engine_transformer import make

from quantsr import images, reference, zoo
from quantsr.dequantize import without_quantizers
from quantsr.packing.ops import PackedModel, Program

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from quantsr.export_onnx import export  # noqa: E402  (needs onnx)


def run(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    return out[0].transpose(1, 2, 0)


def assert_same_picture(got, wanted):
    """The bound for two executions of a packed network (docs/numerics.md): a float sum near a half may flip a code."""
    gap = np.abs(images.to_uint8(got).astype(int) - images.to_uint8(wanted))
    assert gap.max() <= 8
    assert (gap > 0).mean() < 0.01


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_qdq_is_the_packed_network(tmp_path, bits, upscale):
    packed, image = tiny_model(weight_bits=bits, act_bits=bits, upscale=upscale, kernel=3), random_image(13, 18)
    for depth, program in packed.programs.items():
        export(packed, depth, tmp_path / "x.onnx")
        onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"))
        assert_same_picture(run(tmp_path / "x.onnx", image), reference.run(program, packed.tensors, image))


def test_qdq_of_a_trained_network(tmp_path, picture):
    packed = zoo.load_packed("quantsr-c-x4-w4a4")
    image = images.to_float(picture(24, 30))
    export(packed, "quarter", tmp_path / "x.onnx", "qdq")
    wanted = reference.run(packed.programs["quarter"], packed.tensors, image)
    assert_same_picture(run(tmp_path / "x.onnx", image), wanted)


def test_float_is_the_plain_network_of_any_size(tmp_path):
    packed = tiny_model(upscale=4)
    export(packed, "full", tmp_path / "x.onnx", "float")
    plain = without_quantizers(packed.programs["full"], packed.tensors)
    for size in [(1, 1), (7, 12)]:
        image = random_image(*size)
        wanted = reference.run(*plain, image)
        np.testing.assert_allclose(run(tmp_path / "x.onnx", image), wanted, rtol=1e-4, atol=1e-4)


def test_a_negative_quantizer_keeps_its_codes(tmp_path):
    packed = tiny_model(blocks=1)
    ops = tuple(
        replace(op, attrs={**op.attrs, "inv": -op.attrs["inv"]}) if op.kind == "quantize" else op
        for op in packed.programs["full"].ops
    )
    negative = PackedModel(packed.info, {"full": Program(ops, packed.programs["full"].output)}, packed.tensors)
    export(negative, "full", tmp_path / "x.onnx")
    image = random_image(9, 9)
    wanted = reference.run(negative.programs["full"], packed.tensors, image)
    assert_same_picture(run(tmp_path / "x.onnx", image), wanted)


@pytest.mark.parametrize(("depth", "low_bit"), [("deep", "qdq"), ("full", "int4")])
def test_unknown_wishes_are_refused(tmp_path, depth, low_bit):
    with pytest.raises(ValueError, match="wanted one of"):
        export(tiny_model(), depth, tmp_path / "x.onnx", low_bit)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("low_bit", ["qdq", "float"])
@pytest.mark.parametrize("size", [(16, 16), (9, 21), (1, 3)], ids=str)
def test_a_transformer(tmp_path, size, low_bit):
    packed, image = make(1, 12), random_image(*size)
    export(packed, "full", tmp_path / "x.onnx", low_bit, size)
    onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"))
    program, tensors = packed.programs["full"], packed.tensors
    if low_bit == "float":
        program, tensors = without_quantizers(program, tensors)
    np.testing.assert_allclose(run(tmp_path / "x.onnx", image), reference.run(program, tensors, image), atol=1e-4)


def test_a_transformer_needs_a_size(tmp_path):
    with pytest.raises(ValueError, match="size: wanted height and width"):
        export(make(1, 12), "full", tmp_path / "x.onnx")
