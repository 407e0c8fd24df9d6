"""`quantsr export`: the file, the report, and what it refuses."""

import json

import numpy as np
import pytest
from packing.tiny import tiny_model

from quantsr import photos
from quantsr.cli import main
from quantsr.packing import write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from quantsr import onnx_parity  # noqa: E402  (needs onnxruntime)
from quantsr.export_onnx import graph  # noqa: E402


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tiny.safetensors", tiny_model(upscale=4))
    return "tiny.safetensors"


@pytest.mark.parametrize("style", ["qdq-int8", "int4", "qonnx"])
def test_export_writes_a_model_and_compares_it(model, style, capsys, tmp_path):
    assert main(["export", model, "--style", style, "--depth", "half"]) == 0
    path = tmp_path / f"tiny-half-{style}.onnx"
    onnx.checker.check_model(onnx.load(path))
    told = capsys.readouterr().out
    assert f"{path.name}: {path.stat().st_size:,} bytes, {style}, half depth" in told
    assert "onnxruntime" in told and "against the engine, on 128x128 pixels" in told
    assert "9 Conv" in told


def test_the_report_as_json_on_a_photo(model, capsys, tmp_path, picture):
    photos.write(tmp_path / "photo.png", photos.Photo(picture(30, 41)))
    assert main(["export", model, "--photo", "photo.png", "-o", "out.onnx", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "out.onnx" and facts["bytes"] == (tmp_path / "out.onnx").stat().st_size
    assert facts["picture"] == [41, 30] and facts["style"] == "qdq-int8" and facts["depth"] == "full"
    for gap in (facts["default"], facts["not_optimised"]):
        assert gap["levels"] <= 8 and gap["share"] < 0.01
        assert gap["psnr"] is None or gap["psnr"] > 50


def test_a_photo_is_never_overwritten_and_no_file_unasked(model, capsys, tmp_path, picture):
    photos.write(tmp_path / "photo.png", photos.Photo(picture(30, 41)))
    before = (tmp_path / "photo.png").read_bytes()
    options = ["export", model, "--depth", "quarter", "-o", "photo.png"]
    assert main(options) == 2
    assert "photo.png exists; pass --force" in capsys.readouterr().err
    assert main([*options[:-1], str(tmp_path), "--force"]) == 2
    assert f"-o: got the folder {tmp_path}, wanted a file" in capsys.readouterr().err
    assert main([*options, "--force", "--photo", "photo.png"]) == 2
    assert "-o: got photo.png, which is read" in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == before
    assert main([*options, "--force"]) == 0


def test_two_bits_in_a_quarter_of_a_byte(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "two.safetensors", tiny_model(upscale=4, weight_bits=2, act_bits=2))
    assert main(["export", "two.safetensors", "--style", "int2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "two-full-int2.onnx" and facts["style"] == "int2"
    assert all(facts[run]["levels"] <= 8 and facts[run]["share"] < 0.01 for run in ("default", "not_optimised"))
    assert main(["export", "two.safetensors", "--style", "int4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > facts["bytes"]
    write(tmp_path / "four.safetensors", tiny_model(upscale=4))
    assert main(["export", "four.safetensors", "--style", "int2"]) == 2
    assert "as uint2 holds; choose another style" in capsys.readouterr().err
    assert not (tmp_path / "four-full-int2.onnx").exists()


@pytest.mark.parametrize("size", ["24x17", "200x130"])
def test_a_transformer_of_a_size(size, capsys, tmp_path, monkeypatch, picture):
    monkeypatch.chdir(tmp_path)
    width, height = map(int, size.split("x"))
    options = ["export", "quantsr-t-x4-w4a4", "--depth", "quarter"]
    assert main(options) == 2
    assert "--size: got none" in capsys.readouterr().err
    assert main([*options, "--size", size, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["picture"] == [width, height] and (facts["default"]["psnr"] or 99) > 45
    shape = onnx.load(tmp_path / facts["file"]).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 3, height, width]


def test_a_large_photo_is_compared_in_its_middle(model, capsys, tmp_path):
    photos.write(tmp_path / "photo.png", photos.Photo(np.zeros((20, 700, 3), np.uint8)))
    assert main(["export", model, "--depth", "quarter", "--photo", "photo.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] == [512, 20]


def test_another_picture_is_no_success(model, capsys, monkeypatch, tmp_path):
    def wrong(*args):
        built = graph(*args)
        next(node for node in built.graph.node if node.op_type == "Relu").op_type = "Neg"
        return built

    monkeypatch.setattr("quantsr.export_onnx.graph", wrong)
    assert main(["export", model]) == 1
    assert "gives another picture" in capsys.readouterr().err


def test_a_graph_that_the_runtime_refuses(model, capsys, monkeypatch, tmp_path):
    def odd(*args):
        built = graph(*args)
        built.graph.node[0].op_type = "NoSuchOp"
        return built

    monkeypatch.setattr("quantsr.export_onnx.graph", odd)
    assert main(["export", model, "-o", "x.onnx"]) == 1
    assert "x.onnx is written, but cannot be compared: ONNX Runtime" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "wanted a file or one of"),
        (["tiny.safetensors", "--size", "20x10"], "only a transformer has one"),
        (["tiny.safetensors", "-o", "tiny.safetensors"], "got tiny.safetensors, which is read"),
        (["tiny.safetensors", "--photo", "absent.png"], "absent.png"),
    ],
)
def test_wrong_use(model, arguments, message, capsys, tmp_path):
    before = (tmp_path / model).read_bytes()
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / model).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [model]


def test_equal_pictures_have_no_distance(picture):
    image = picture(12, 13)
    assert onnx_parity.gap(image, image) == onnx_parity.Gap(0, 0.0, None)
    other = image.copy()
    other[3, 4, 1] ^= 4
    assert onnx_parity.gap(other, image) == onnx_parity.Gap(4, 1 / image.size, pytest.approx(61, abs=10))
