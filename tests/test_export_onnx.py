"""ONNX Runtime on exported graphs against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from packing.test_lower import make_network
from packing.test_products import model_of
from packing.test_transformer import make_network as make_transformer
from packing.test_transformer import packed as transformer
from packing.tiny import random_image, tiny_model
from test_engine_products import make as make_products
from test_engine_transformer import make

from quantsr import images, reference, zoo
from quantsr.dequantize import without_quantizers
from quantsr.packing.lower import lower
from quantsr.packing.ops import weight_codes
from quantsr.packing.program import Op, PackedModel, Program
from quantsr.quant import QuantConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402  (needs onnx)
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from quantsr import onnx_parity  # noqa: E402
from quantsr.export_onnx import UnknownOp, export, graph  # noqa: E402
from quantsr.onnx_nodes import QONNX  # noqa: E402
from quantsr.onnx_parity import compare, plain  # noqa: E402

STYLES = ("qdq-int8", "int4", "qonnx")


ATTRS = {"in_channels": 12, "out_channels": 12, "kernel": 1, "weight_bits": 4, "act_bits": 4, "zero": 8}  # of qconv2d


def run(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    return out[0].transpose(1, 2, 0)


def network(bits, **settings):
    """A small packed network of torch, calibrated, with gains and shifts."""
    quant = QuantConfig(bits, bits, **settings)
    return lower(make_network(bits, **settings), name="test", quant=quant)


def assert_same_picture(got, wanted, share=0.01):
    """The bound for two executions of a packed network (docs/numerics.md): a float sum near a half may flip a code."""
    gap = np.abs(images.to_uint8(got).astype(int) - images.to_uint8(wanted))
    assert gap.max() <= 8
    assert (gap > 0).mean() < share


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
    assert_same_picture(run(tmp_path / "x.onnx", image), wanted, share=0.05)  # one flip may reach most of 24 x 30


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


@pytest.mark.parametrize("products", [False, True], ids=["linear layers", "and products"])
def test_int2_of_a_transformer(products):
    packed, image = model_of(2) if products else transformer(make_transformer(2), 2), random_image(9, 13)
    program = packed.programs["full"]
    model = graph(program, packed.tensors, 3, "int2", (9, 13))
    onnx.checker.check_model(model, full_check=True)
    facts = compare(model, image, reference.run(program, packed.tensors, image))
    assert all(facts[run]["levels"] <= 8 and facts[run]["share"] < 0.01 for run in ("default", "not_optimised"))


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


def sharing(kinds, output="large", **changes):
    """Two convolutions behind each other with the same tensors, except for what `changes` replaces in the second."""
    random = np.random.default_rng(0)
    tensors = {"q.weight": random.integers(0, 256, 12 * 12 // 2, np.uint8), "offset": random.normal(8, 1, 12)}
    tensors |= {"f.weight": random.normal(0, 0.3, (12, 1, 1, 12)), "bias": random.normal(0, 1, 12)}
    tensors |= {"mul": random.uniform(0.01, 0.02, 12), "mul2": random.uniform(0.03, 0.05, 12)}
    tensors |= {"head": random.normal(0, 0.3, (12, 3, 3, 3))}
    ops = [Op("conv2d", ("image",), "y0", {}, {"weight": "head", "bias": "bias"})]
    for i, kind in enumerate(kinds, 1):
        value = f"y{i - 1}"
        if kind == "conv2d":
            ops += [Op(kind, (value,), f"y{i}", {}, {"weight": "f.weight", "bias": "bias"})]
            continue
        own = {"weight": "q.weight", "mul": "mul", "bias": "bias"} | (changes if i == len(kinds) else {})
        ops += [Op("quantize", (value,), f"a{i}", {"inv": 4.0, "levels": 15}, {"offset": "offset"})]
        ops += [Op("qconv2d", (f"a{i}",), f"y{i}", ATTRS, own)]
    ops += [Op("pixel_shuffle", (ops[-1].output,), output, {"upscale": 2})]
    floats = {name: array if array.dtype == np.uint8 else array.astype(np.float32) for name, array in tensors.items()}
    return Program(tuple(ops), output), floats


@pytest.mark.parametrize("style", [*STYLES, "float"])
@pytest.mark.parametrize("kinds", [("conv2d", "qconv2d"), ("qconv2d", "conv2d"), ("qconv2d", "qconv2d")], ids=" ".join)
def test_tensors_shared_by_ops(tmp_path, kinds, style):
    program, tensors = sharing(kinds, mul="mul2")
    model = graph(program, tensors, 3, style)
    onnx.checker.check_model(model, full_check=True)
    if style == "float":
        program, tensors = without_quantizers(program, tensors)
    image = random_image(6, 7)
    got, wanted = onnx_parity.run(model, image).picture, reference.run(program, tensors, image)
    assert np.mean(np.abs(got - wanted) > 1e-3) < 0.02  # where a code flips


def test_an_output_that_has_the_graphs_own_name():
    program, tensors = sharing(("conv2d",), "upscaled")
    model = graph(program, tensors, 3, "qdq-int8")
    assert [node.output[0] for node in model.graph.node].count("upscaled") == 1
    onnx.checker.check_model(model)


@pytest.mark.parametrize("name", ["y.product", "upscaled", "bias.bias"])
def test_names_that_the_graph_needs_itself_are_refused(name):
    ops = (
        Op("conv2d", ("image",), "bias", {}, {"weight": "weight", "bias": "offset"}),
        Op("relu", ("bias",), name),
        Op("quantize", (name,), "a", {"inv": 4.0, "levels": 15}, {"offset": "offset"}),
        Op("qconv2d", ("a",), "y", ATTRS, {"weight": "codes", "mul": "offset", "bias": "offset"}),
        Op("pixel_shuffle", ("y",), "large", {"upscale": 2}),
    )
    tensors = {"weight": np.zeros((12, 3, 3, 3), np.float32), "offset": np.ones(12, np.float32)}
    with pytest.raises(ValueError, match=f"^{name}: got this name twice in one graph"):
        graph(Program(ops, "large"), tensors | {"codes": np.zeros(72, np.uint8)}, 3, "qdq-int8")


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


@pytest.mark.parametrize("style", ["qdq-int8", "float"])
def test_attention_on_codes_of_a_trained_network(style):
    """The names are those that `lower` gives."""
    packed, image = model_of(4), random_image(9, 13)
    program, tensors = packed.programs["full"], packed.tensors
    model = graph(program, tensors, 3, style, (9, 13))
    onnx.checker.check_model(model)
    if style == "float":
        program, tensors = without_quantizers(program, tensors)
    facts = compare(model, image, reference.run(program, tensors, image))
    assert facts["default"]["levels"] <= 8 and facts["default"]["share"] < 0.01


def test_attention_in_images_padded_to_several_multiples(tmp_path):
    random, ops, tensors, image = np.random.default_rng(0), [], {}, random_image(9, 13)
    tensors["bias"], tensors["weight"] = np.zeros(36, np.float32), random.random((36, 1, 1, 3), np.float32)
    for window in (4, 6):
        table, attrs = f"table{window}", {"heads": 3, "window": window, "shift": 2, "scale": 0.5}
        tensors[table] = random.random(((2 * window - 1) ** 2, 3), np.float32)
        ops += [
            Op("pad", ("image",), f"padded{window}", {"multiple": window}),
            Op("conv2d", (f"padded{window}",), f"parts{window}", {}, {"weight": "weight", "bias": "bias"}),
            Op("window_attention", (f"parts{window}",), f"mixed{window}", attrs, {"position_bias": table}),
            Op("crop", (f"mixed{window}", "image"), f"y{window}", {"factor": 1}),
        ]
    ops += [Op("residual", ("y4", "y6"), "sum", {"gain": 1.0}), Op("pixel_shuffle", ("sum",), "y", {"upscale": 2})]
    program = Program(tuple(ops), "y")
    onnx.save(graph(program, tensors, 3, "qdq-int8", (9, 13)), tmp_path / "x.onnx")
    np.testing.assert_allclose(run(tmp_path / "x.onnx", image), reference.run(program, tensors, image), atol=1e-4)


def test_a_transformer_needs_a_size(tmp_path):
    with pytest.raises(ValueError, match="size: wanted height and width"):
        export(make(1, 12), "full", tmp_path / "x.onnx")
