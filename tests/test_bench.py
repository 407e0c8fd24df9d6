"""`quantsr bench`, end to end on networks so small that it takes seconds; no other runtime is needed."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from packing.tiny import tiny_model

from quantsr import photos
from quantsr.bench import engines as engines_module
from quantsr.bench.engines import PEERS
from quantsr.bench.measure import LIMITS
from quantsr.bench.random_network import picture
from quantsr.cli import main
from quantsr.engine import available_isas
from quantsr.packing import write

ROW = {"engine", "network", "part", "tail", "size", "threads", "cpu_ms", "cpu_ms_quartiles", "cpu_ratio", "wall_ms"}
ROW |= {"wall_ms_quartiles", "wall_ratio", "gmacs", "peak_mib", "kernels", "psnr", "share_of_vnni_peak", "limited"}


def bench(tmp_path: Path, *arguments: object) -> dict:
    out = tmp_path / "out.json"
    assert main(["bench", *map(str, arguments), "--rounds", "1", "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_random_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    options = ["--plot", plot] if importlib.util.find_spec("matplotlib") else []
    names = ["quantsr", f"quantsr-{available_isas()[0]}"]
    found = bench(tmp_path, "--blocks", 2, "--size", 8, "--threads", 2, "--engines", *names, *options)
    assert found["failed"] == [] and found["left_out"] == {}
    rows = found["rows"]
    assert len(rows) == 2 * 4  # engines; layer, body, network as it is and collapsed
    assert {(row["part"], row["tail"]) for row in rows} == {
        ("layer", "as-is"),
        ("body", "as-is"),
        ("network", "as-is"),
        ("network", "collapsed"),
    }
    for row in rows:
        assert row.keys() == ROW
        assert row["network"] == "random-2-paper" and row["size"] == "8x8" and row["psnr"] is None
        low, high = row["cpu_ms_quartiles"]
        assert 0 < low <= row["cpu_ms"] <= high
        assert row["wall_ms"] > 0 and row["peak_mib"] > 1 and row["gmacs"] > 0
        assert row["kernels"]
    assert all(row["cpu_ratio"] == 1 for row in rows if row["engine"] == "quantsr")
    assert found["machine"]["cores"] >= 1 and "numpy" in found["versions"]
    shown = capsys.readouterr().out
    assert shown.count("random-2-paper, network, tail collapsed, 8x8, 2 threads") == 1
    assert not options or plot.stat().st_size > 1000


def test_a_photo_adds_itself_and_psnr(tmp_path: Path) -> None:
    model, photo = tmp_path / "tiny.safetensors", tmp_path / "photo.png"
    write(model, tiny_model(upscale=2))
    photos.write(photo, photos.Photo(picture(40, 31)))
    options = ["-n", model, "--size", 12, "--photo", photo, "--threads", 1, "--parts", "network", "--tails", "as-is"]
    rows = bench(tmp_path, *options, "--engines", "quantsr")["rows"]
    assert [(row["size"], row["psnr"] is None) for row in rows] == [("12x12", True), ("31x40", True), ("15x20", False)]
    assert 0 < rows[-1]["psnr"] < 60


def test_8_bits_behind_the_body(tmp_path: Path) -> None:
    options = ["--blocks", 1, "--size", 8, "--threads", 1, "--engines", "quantsr", "quantsr-fast"]
    rows = [row for row in bench(tmp_path, *options)["rows"] if row["engine"] == "quantsr-fast"]
    assert [(row["part"], row["tail"]) for row in rows] == [("network", "as-is"), ("network", "collapsed")]
    assert all(sum(row["kernels"].values()) == 5 for row in rows)  # head; body; 8 bits


def test_each_instruction_set_up_to_the_limit(tmp_path: Path) -> None:
    limit = next((isa for isa in available_isas() if isa != "ref"), None)
    if limit not in LIMITS:
        pytest.skip("no instruction set to limit")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(engines_module.importlib.util, "find_spec", lambda name: None)  # as if no peer were installed
        found = bench(
            tmp_path, "--blocks", 1, "--size", 8, "--threads", 1, "--parts", "layer", "--each-isa", "--max-isa", limit
        )
    assert [row["engine"] for row in found["rows"]] == ["quantsr", f"quantsr-{limit}"]
    assert all(limit in kernel for row in found["rows"] for kernel in row["kernels"])
    assert found["left_out"].keys() == PEERS.keys()
    assert 'pip install ".[bench]"' in found["left_out"]["openvino-int8"]


def test_peers_and_parts_that_a_transformer_cannot_have_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-n", "quantsr-t-x4-w4a4", "--size", 8, "--threads", 1]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(engines_module.Engine, "missing", lambda engine: [])  # as if all peers were installed
        names = ["quantsr", "ncnn-fp32", "ncnn-int8", "torch-channels-last", "torch-compiled"]
        found = bench(tmp_path, *options, "--engines", *names)
    assert [(row["engine"], row["part"]) for row in found["rows"]] == [("quantsr", "network")]
    assert found["failed"] == []
    assert found["left_out"].keys() == {*names[1:], "part layer", "part body"}
    told = capsys.readouterr().err
    assert "left out: ncnn-int8: cannot be given transformers" in told
    assert "left out: part body: of a transformer only the whole" in told
    assert main(["bench", *map(str, options), "--parts", "body"]) == 2


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_model = tmp_path / "float.safetensors"
    write(float_model, tiny_model(blocks=0))
    assert main(["bench", "-n", "absent"]) == 2
    assert main(["bench", "-n", str(float_model)]) == 2
    assert "wanted a low-bit one" in capsys.readouterr().err
    assert main(["bench", "-n", "quantsr-c-x4-w4a4", "--float-model", "quantsr-c-x2-w4a4"]) == 2
    assert main(["bench", "--photo", str(tmp_path / "absent.png"), "--engines", "quantsr"]) == 2
    assert main(["bench", "--plot", str(tmp_path / "plot.doc")]) == 2  # before anything is measured


def test_what_is_read_is_neither_written_over_nor_waited_for(
    tmp_path: Path, in_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, pipe = tmp_path / "photo.png", tmp_path / "pipe.png"
    photos.write(photo, photos.Photo(picture(20, 20)))
    os.mkfifo(pipe)
    before = photo.read_bytes()
    assert main(["bench", "--photo", str(photo), "--json", str(photo)]) == 2
    if importlib.util.find_spec("matplotlib"):
        assert main(["bench", "--photo", str(photo), "--plot", str(photo)]) == 2
        assert "--plot: got" in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert main(["bench", "--photo", str(pipe)]) == 2
    assert capsys.readouterr().err.endswith("pipe.png: is a pipe, wanted a file\n")
