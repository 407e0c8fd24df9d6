"""ONNX Runtime on exported graphs against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from packing.test_lower import make_network
from packing.tiny import random_image, tiny_model
from test_engine_products import make as make_products
from test_engine_transformer import make

from quantsr import images, reference, zoo
from quantsr.dequantize import without_quantizers
from quantsr.packing.lower import lower
from quantsr.packing.ops import Op, PackedModel, Program, weight_codes
from quantsr.quant import QuantConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402  (needs onnx)
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from quantsr.export_onnx import QONNX, UnknownOp, export, graph  # noqa: E402
from quantsr.onnx_parity import compare, plain  # noqa: E402

STYLES = ("qdq-int8", "int4", "qonnx")


def run(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    return out[0].transpose(1, 2, 0)


def network(bits, **settings):
    """A small packed network of torch, calibrated, with gains and shifts."""
    quant = QuantConfig(bits, bits, **settings)
    return lower(make_network(bits, **settings), name="test", quant=quant)


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
    export(packed, "quarter", tmp_path / "x.onnx", "qdq-int8")
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


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("quantizer", ["rlq", "lsq", "pams"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_runtimes_optimisation_leaves_the_network_as_it_is(bits, quantizer, style):
    """With the bias inside the convolution ONNX Runtime rounds it, where no shift is added: up to 69 levels."""
    packed, image = network(bits, quantizer=quantizer), images.to_float(_waves())
    program = packed.programs["full"]
    facts = compare(graph(program, packed.tensors, 3, style), image, reference.run(program, packed.tensors, image))
    for gap in (facts["default"], facts["not_optimised"]):
        assert gap["levels"] <= 1
        assert gap["share"] < 1e-3
        assert gap["psnr"] is None or gap["psnr"] > 80
    assert facts["convolutions"] == {"Conv": 11}


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_int4_holds_codes_in_half_a_byte(tmp_path, bits):
    packed = network(bits)
    model = export(packed, "full", tmp_path / "x.onnx", "int4")
    onnx.checker.check_model(model, full_check=True)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = [name for name in held if name.endswith(".weight.codes")]
    assert len(codes) == 8
    for name in codes:
        assert held[name].data_type == TensorProto.INT4
        assert len(held[name].raw_data) * 2 == np.prod(held[name].dims)
        conv = next(op for op in packed.programs["full"].ops if f"{op.output}.weight.codes" == name)
        stored = numpy_helper.to_array(held[name]).astype(np.int8)
        np.testing.assert_array_equal(
            stored, weight_codes(conv, packed.tensors[conv.tensors["weight"]]).transpose(0, 3, 1, 2)
        )
    zeros = [held[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {tensor.data_type for tensor in zeros} == {TensorProto.UINT4}


INT2 = ({"quantizer": "rlq"}, {"quantizer": "lsq"}, {"quantizer": "pams"}, {"weight_grid": "mid_rise"})


@pytest.mark.parametrize("settings", INT2, ids=lambda settings: "-".join(settings.values()))
def test_int2_holds_codes_in_a_quarter_of_a_byte(settings):
    packed, image = network(2, **settings), images.to_float(_waves())
    program = packed.programs["full"]
    model = graph(program, packed.tensors, 3, "int2")
    onnx.checker.check_model(model, full_check=True)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = [held[name] for name in held if name.endswith((".weight.codes", ".weight.levels.codes"))]
    assert len(codes) == 8
    for tensor in codes:
        assert tensor.data_type == TensorProto.INT2
        assert len(tensor.raw_data) * 4 == np.prod(tensor.dims)
    zeros = [held[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {tensor.data_type for tensor in zeros} == {TensorProto.UINT2}
    facts = compare(model, image, reference.run(program, packed.tensors, image))
    assert all(facts[run]["levels"] <= 1 and facts[run]["share"] < 1e-3 for run in ("default", "not_optimised"))


def test_int2_refuses_what_it_cannot_hold():
    packed = network(3)
    with pytest.raises(ValueError, match=r"got codes -?\d to \d, wanted -?\d to \d as u?int2 holds"):
        graph(packed.programs["full"], packed.tensors, 3, "int2")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("bits", [2, 3])
def test_weights_of_the_mid_rise_grid(bits, style):
    packed, image = network(bits, weight_grid="mid_rise"), images.to_float(_waves())
    program = packed.programs["full"]
    assert "odd_qconv2d" in {op.kind for op in program.ops}
    facts = compare(graph(program, packed.tensors, 3, style), image, reference.run(program, packed.tensors, image))
    assert facts["default"]["levels"] <= 1 and facts["default"]["share"] < 1e-3


class Quant(OpRun):
    """The formula of QONNX's own page on the op, written a second time."""

    op_domain = QONNX

    def _run(self, x, scale, zeropt, bitwidth, signed=1, narrow=0, rounding_mode="ROUND"):
        assert rounding_mode == "ROUND" and not narrow
        n = 2.0 ** float(bitwidth)
        low, high = (-n / 2, n / 2 - 1) if signed else (0.0, n - 1)
        codes = np.rint(np.clip(x / scale + zeropt, low, high))
        return (((codes - zeropt) * scale).astype(np.float32),)


@pytest.mark.parametrize("quantizer", ["rlq", "pams"])
@pytest.mark.parametrize("bits", [2, 4])
def test_qonnx_by_its_formula(bits, quantizer):
    packed, image = network(bits, quantizer=quantizer), images.to_float(_waves(11, 12))
    model = graph(packed.programs["full"], packed.tensors, 3, "qonnx")
    quants = [node for node in model.graph.node if node.op_type == "Quant"]
    assert len(quants) == 16 and {node.domain for node in quants} == {QONNX}
    widths = {numpy_helper.to_array(t).item() for t in model.graph.initializer if t.name.startswith("bits")}
    assert widths == {bits}
    feed = {"image": image.transpose(2, 0, 1)[None]}
    (expected,) = ReferenceEvaluator(model, new_ops=[Quant]).run(None, feed)
    (got,) = ReferenceEvaluator(plain(model)).run(None, feed)
    np.testing.assert_array_equal(got, expected)
    wanted = reference.run(packed.programs["full"], packed.tensors, image)
    assert_same_picture(expected[0].transpose(1, 2, 0), wanted)


def test_qonnx_in_qonnx_itself():
    execution = pytest.importorskip("qonnx.core.onnx_exec")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    packed, image = network(3), images.to_float(_waves(9, 10))
    model = graph(packed.programs["full"], packed.tensors, 3, "qonnx")
    for size, axis in zip((1, 3, 9, 10), model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        axis.dim_value = size
    feed = {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
    out = execution.execute_onnx(ModelWrapper(model).transform(InferShapes()), feed)["upscaled"]
    wanted = reference.run(packed.programs["full"], packed.tensors, image)
    assert_same_picture(out[0].transpose(1, 2, 0), wanted)


def test_codes_that_are_no_full_range_are_clipped_before_quant():
    model = graph(network(4, quantizer="pams").programs["full"], network(4, quantizer="pams").tensors, 3, "qonnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Clip") == 8  # codes -7 .. 7 and 0 .. 14
    full = network(4)
    assert "Clip" not in {node.op_type for node in graph(full.programs["full"], full.tensors, 3, "qonnx").graph.node}


@pytest.mark.parametrize(("depth", "style"), [("deep", "qdq-int8"), ("full", "int5")])
def test_unknown_wishes_are_refused(tmp_path, depth, style):
    with pytest.raises(ValueError, match="wanted one of"):
        export(tiny_model(), depth, tmp_path / "x.onnx", style)
    assert not list(tmp_path.iterdir())


def test_an_op_without_a_rule_is_named():
    program = Program((Op("edge_conv2d", ("image",), "tail"),), "tail")
    with pytest.raises(UnknownOp, match="op 'tail': got 'edge_conv2d', which has no ONNX form"):
        graph(program, {}, 3, "int4")


def _waves(height=21, width=26):
    y, x = np.mgrid[:height, :width]
    return np.rint(127.5 + 127.5 * np.sin(np.stack([x / 3, y / 4, (x + y) / 5], -1))).astype(np.uint8)


@pytest.mark.parametrize("style", ["qdq-int8", "int4", "float"])
@pytest.mark.parametrize("size", [(16, 16), (9, 21), (1, 3)], ids=str)
def test_a_transformer(tmp_path, size, style):
    packed, image = make(1, 12), random_image(*size)
    export(packed, "full", tmp_path / "x.onnx", style, size)
    onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"))
    program, tensors = packed.programs["full"], packed.tensors
    if style == "float":
        program, tensors = without_quantizers(program, tensors)
    np.testing.assert_allclose(run(tmp_path / "x.onnx", image), reference.run(program, tensors, image), atol=1e-4)


@pytest.mark.parametrize("style", ["qdq-int8", "int4", "float"])
@pytest.mark.parametrize("size", [(16, 16), (9, 21)], ids=str)
def test_attention_on_codes(tmp_path, size, style):
    packed, image = make_products(1, 12), random_image(*size)
    model = export(packed, "full", tmp_path / "x.onnx", style, size)
    onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"))
    program, tensors = packed.programs["full"], packed.tensors
    if style == "float":
        program, tensors = without_quantizers(program, tensors)
    else:
        made = {node.output[0]: node.op_type for node in model.graph.node}
        products = [node for node in model.graph.node if node.op_type == "MatMul" and node.name.endswith("sums")]
        assert len(products) == 2 * sum(op.kind == "qwindow_attention" for op in program.ops)
        assert [made[node.input[1]] for node in products] == ["Transpose", "DequantizeLinear"] * (len(products) // 2)
    got, wanted = run(tmp_path / "x.onnx", image), reference.run(program, tensors, image)
    assert np.mean(np.abs(got - wanted) > 1e-4) < 0.01  # where a code flips


def test_a_transformer_needs_a_size(tmp_path):
    with pytest.raises(ValueError, match="size: wanted height and width"):
        export(make(1, 12), "full", tmp_path / "x.onnx")
