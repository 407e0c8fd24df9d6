"""The commands, run in process on a tiny model; what a user sees, and the exit codes."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packing.tiny import tiny_model
from PIL import Image

import quantsr
from quantsr import images, photos, zoo
from quantsr.backends import of_network
from quantsr.cli import main
from quantsr.commands.common import MAX_THREADS, NONE_DONE, number, size_in_bytes
from quantsr.data import benchmarks
from quantsr.engine import Engine
from quantsr.evaluate import evaluate
from quantsr.packing import write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    write(path, tiny_model(upscale=4))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    photos.write(path, photos.Photo(pixels))
    return path


def upscale(*arguments: object) -> int:
    """The tiny model is made of random numbers: its results do not resemble the input."""
    return main(["upscale", "--no-check", *map(str, arguments)])


def names(folder: Path) -> list[str]:
    """Visible files."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def test_upscale_writes_the_enlarged_picture(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photo.parent / "large.png"
    assert upscale(photo, "-o", out, "-n", model) == 0
    assert str(out) in capsys.readouterr().out
    expected = quantsr.load(model).upscale(images.read(photo))
    np.testing.assert_array_equal(images.read(out), expected)
    assert expected.shape == (80, 120, 3)


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_depth_tile_and_threads(model: Path, photo: Path, depth: str) -> None:
    whole, tiled = photo.parent / "whole.png", photo.parent / "tiled.png"
    assert upscale(photo, "-o", whole, "-n", model, "--depth", depth, "--threads", 1) == 0
    assert upscale(photo, "-o", tiled, "-n", model, "--depth", depth, "--threads", 2, "--tile", 7) == 0
    assert whole.read_bytes() == tiled.read_bytes()


def test_fast(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale(photo, "-n", model, "--fast") == 2  # too few channels
    assert "8 bits: wanted float convolutions" in capsys.readouterr().err
    write(model, tiny_model(upscale=4, channels=16))
    normal, fast = photo.parent / "normal.png", photo.parent / "fast.png"
    assert upscale(photo, "-o", normal, "-n", model) == 0
    assert upscale(photo, "-o", fast, "-n", model, "--fast") == 0
    expected = quantsr.load(model, fast=True).upscale(images.read(photo))
    np.testing.assert_array_equal(images.read(fast), expected)
    assert 0 < np.abs(images.read(normal).astype(int) - expected).mean() < 8


def test_memory(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, bounded = photo.parent / "whole.png", photo.parent / "bounded.png"
    assert upscale(photo, "-o", whole, "-n", model) == 0
    assert upscale(photo, "-o", bounded, "-n", model, "--memory", "200MiB") == 0
    assert whole.read_bytes() == bounded.read_bytes()
    assert upscale(photo, "-o", photo.parent / "none.png", "-n", model, "--memory", "1MB") == NONE_DONE
    told = re.search(r"got --memory 976 KiB, wanted (\d+) MiB$", capsys.readouterr().err.strip())
    assert told and upscale(photo, "-o", photo.parent / "just.png", "-n", model, "--memory", f"{told[1]}MiB") == 0
    lacking = f"{int(told[1]) - 1}MiB"
    assert upscale(photo, "-o", photo.parent / "none.png", "-n", model, "--memory", lacking) == NONE_DONE
    assert f"got --memory {lacking[:-3]} MiB, wanted {told[1]} MiB" in capsys.readouterr().err
    assert upscale(photo, "-o", photo.parent / "none.png", "-n", model, "--memory", "0") == NONE_DONE
    assert f"got --memory 0 B, wanted {told[1]} MiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1GiB", 2**30),
        ("800MB", 800 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("512", 512),
        ("2k", 2000),
        ("1.5g", 15 * 10**8),
        ("1gib", 2**30),
    ],
)
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert size_in_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "1XB", "-1GB", "1.2.3GB", "9" * 400, "."])
def test_amounts_of_memory_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 800MB"):
        size_in_bytes(text)


@pytest.mark.slow
def test_a_result_of_100_megapixels_within_a_gibibyte(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    Image.fromarray(small).resize((2500, 2500)).save(tmp_path / "big.png")
    command = ["upscale", "big.png", "-o", "out.jpg", "--depth", "quarter", "--memory", "1GiB"]
    script = f"import sys, resource; from quantsr.cli import main; code = main({command})\n"
    script += "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()[-2:]
    assert int(code) == 0 and int(peak) < 2**20  # KiB
    with Image.open(tmp_path / "out.jpg") as out:
        assert out.size == (10000, 10000)


def test_many_inputs_go_into_a_folder_and_keep_their_format(model: Path, photo: Path) -> None:
    other = photo.with_name("other.jpg")
    photos.write(other, photos.Photo(images.read(photo)))
    out = photo.parent / "new" / "folder"
    assert upscale(photo, other, "-o", out, "-n", model) == 0
    assert names(out) == ["other_x4.jpg", "photo_x4.png"]
    assert Image.open(out / "other_x4.jpg").format == "JPEG"


def test_without_output_the_result_lies_beside_the_input(model: Path, photo: Path) -> None:
    assert upscale(photo, "-n", model) == 0
    assert (photo.parent / "photo_x4.png").exists()


def test_one_bad_file_does_not_stop_the_rest(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = photo.with_name("bad.png")
    bad.write_bytes(photo.read_bytes()[:200])
    out = photo.parent / "out"
    assert upscale(bad, photo, "-o", out, "-n", model) == 3
    assert "bad.png" in capsys.readouterr().err
    assert names(out) == ["photo_x4.png"]
    assert upscale(bad, photo.with_name("absent.png"), "-o", out, "-n", model) == 4


def test_no_input_is_ever_overwritten(model: Path, photo: Path) -> None:
    before = photo.read_bytes()
    assert upscale(photo, "-o", photo, "-n", model) == 4
    assert upscale(photo, "-o", photo, "-n", model, "--force") == 4
    link = photo.with_name("link.png")
    link.symlink_to(photo)
    assert upscale(photo, "-o", link, "-n", model, "--force") == 4
    assert photo.read_bytes() == before


def test_a_result_is_overwritten_only_by_force(model: Path, photo: Path) -> None:
    out = photo.parent / "large.png"
    assert upscale(photo, "-o", out, "-n", model) == 0
    first = out.read_bytes()
    assert upscale(photo, "-o", out, "-n", model, "--depth", "quarter") == 4
    assert out.read_bytes() == first
    assert upscale(photo, "-o", out, "-n", model, "--depth", "quarter", "--force") == 0
    assert out.read_bytes() != first


def test_two_inputs_never_meet_in_one_file(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = photo.parent / "sub" / photo.name
    twin.parent.mkdir()
    twin.write_bytes(photo.read_bytes())
    assert upscale(photo, twin, "-o", photo.parent / "out", "-n", model) == 2
    assert f"{photo} and {twin} would both be written to" in capsys.readouterr().err
    assert upscale(photo, twin, "-o", photo.parent / "one.png", "-n", model) == 2
    assert "got 2 inputs for the one file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra", [["-s", "2"], ["-n", "absent"], ["--threads", "0"], ["--depth", "deep"], ["-s", "5"]], ids=" ".join
)
def test_usage_errors(model: Path, photo: Path, extra: list[str]) -> None:
    arguments = ["upscale", str(photo), "-o", str(photo.parent / "x.png"), *extra]
    if "-n" not in extra:
        arguments += ["-n", str(model)]
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's own
        code = error.code  # type: ignore[assignment]
    assert code == 2


@pytest.mark.parametrize(
    "words",
    ["upscale -", "upscale a.png -o -", "upscale a.png --report -", "pack - -o a", "pack a -o -", "export a -o -",
     "export a --photo -", "evaluate --zoo --data . --json -"],
)  # fmt: skip
@pytest.mark.parametrize(
    "name, told",
    [
        ("-", "got -, wanted a name: nothing is read from stdin or written to stdout"),
        ("", "got an empty name, wanted a file or folder; the working folder is ."),
    ],
)
def test_a_dash_and_nothing_are_no_names(
    words: str,
    name: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([name if word == "-" else word for word in words.split()])
    assert ended.value.code == 2 and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.endswith(f"{told}\n")


def test_what_is_not_understood_is_told_with_the_usage_of_the_command(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photo.parent)
    photo.rename("-dash.png")
    for words, told in (
        (["upscale", "a.jpg", "-g", "0"], "-g 0"),
        (["upscale", "-dash.png"], "-dash.png; the file of that name is ./-dash.png"),
        (["models", "more"], "more"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        usage, *_, last = capsys.readouterr().err.splitlines()
        assert usage.startswith(f"usage: quantsr {words[0]} ")
        assert last == f"quantsr {words[0]}: error: unrecognized arguments: {told}"


def test_whole_numbers_have_no_end_of_their_own() -> None:
    assert number(1)(str(10**400)) == 10**400


def test_inputs_on_both_sides_of_an_option(photo: Path, tmp_path: Path) -> None:
    second, out = photo.with_name("second.png"), tmp_path / "out"
    shutil.copy(photo, second)
    assert main(["upscale", str(photo), "-o", str(out), str(second), "--depth", "quarter"]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [f"{photo.stem}_x4.png", "second_x4.png"]


@pytest.mark.parametrize("command", ["upscale", "evaluate", "bench", "serve"])
def test_too_many_threads(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--threads", "1025"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("argument --threads: got '1025', wanted a whole number from 1 to 1024\n")


@pytest.mark.parametrize(("words", "wanted"), [
    ("upscale a.png --within abc", "argument --within: got 'abc', wanted a number, 0.001 or more"),
    ("upscale a.png --within inf", "argument --within: got 'inf', wanted a number, 0.001 or more"),
    ("upscale a.png --quality 1.5", "argument --quality: got '1.5', wanted a whole number from 1 to 100"),
    ("upscale a.png -t x", "argument -t/--tile: got 'x', wanted a whole number, 1 or more"),
    ("video a.mkv --crf 64", "argument --crf: got '64', wanted a whole number from 0 to 63"),
    ("train small-x4-w2a2 --minutes nan", "argument --minutes: got 'nan', wanted a number, 0 or more"),
    ("serve --port 70000", "argument --port: got '70000', wanted a whole number from 0 to 65535"),
])  # fmt: skip
def test_what_is_no_such_number(words: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words.split())
    assert capsys.readouterr().err.endswith(f"{wanted}\n")


def test_threads_up_to_the_most_that_an_engine_takes() -> None:
    assert number(1, MAX_THREADS)("1024") == MAX_THREADS
    with pytest.raises(ValueError, match=rf"wanted 1\.\.{MAX_THREADS}"):
        Engine(tiny_model(channels=2, blocks=1), threads=MAX_THREADS + 1)


@pytest.mark.parametrize("command", ["upscale", "evaluate", "export"])
def test_an_unknown_instruction_set_is_wrong_usage(
    model: Path, photo: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTSR_ISA", "foo")
    out = ["-o", str(photo.parent / "out.onnx")]
    arguments = {"upscale": [str(photo), *out, "-n", str(model)], "export": [str(model), *out]}
    make_set5(photo.parent)
    arguments["evaluate"] = ["-n", str(model), "--data", str(photo.parent), "--set", "Set5"]
    assert main([command, *arguments[command]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "foo" in line
    assert not (photo.parent / "out.onnx").exists()


def test_a_damaged_model_is_refused(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    model.write_bytes(data)
    assert upscale(photo, "-o", photo.parent / "x.png", "-n", model) == 2
    assert "checksum" in capsys.readouterr().err.lower()


def test_orientation_is_applied_and_metadata_kept(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "rotated.jpg", tmp_path / "out.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"  # turned by 90 degrees; maker
    Image.new("RGB", (30, 20), (200, 100, 50)).save(source, exif=exif, icc_profile=b"profile", dpi=(300, 300))
    assert upscale(source, "-o", out, "-n", model) == 0
    with Image.open(out) as result:
        assert result.size == (80, 120)
        assert result.getexif()[0x0112] == 1
        assert result.getexif()[0x010F] == "Camera"
        assert result.info["icc_profile"] == b"profile"
        assert tuple(map(round, result.info["dpi"])) == (300, 300)


def test_info_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packed_bytes"] == model.stat().st_size == sum(facts["bytes_by_part"].values())
    assert (facts["weight_bits"], facts["act_bits"]) == (4, 4)
    assert {d: len(kept) for d, kept in facts["depths"].items()} == {"full": 4, "half": 2, "quarter": 1}
    assert facts["parameters"] > 0 and facts["bitops"]["full"] > facts["bitops"]["quarter"]
    assert main(["info", str(model)]) == 0
    assert "receptive radius" in capsys.readouterr().out


def test_info_shows_no_controls_and_no_lines_of_a_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_model(upscale=4)
    hostile = {"name": "a\x1b[31m", "licence": "none\nPSNR  99 dB", "training": {"stages": [{"a\r": "\x9b2J"}]}}
    write(model, replace(tiny, info=tiny.info | hostile))
    assert main(["info", str(model)]) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in (r"a\x1b[31m", r"none\nPSNR  99 dB", r"a\r \x9b2J"))
    assert all(letter.isprintable() for letter in told.replace("\n", ""))


def test_failures_show_a_name_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "n\x1b[31m\nx.png"
    Path(name).mkdir()
    assert main(["upscale", name]) == 2
    assert main(["upscale", "a.png", "-o", f"{name}/a.mp4"]) == 2
    with pytest.raises(SystemExit):
        main(["upscale", "a.png", f"--{name}"])
    told = capsys.readouterr().err
    assert told.count(r"n\x1b[31m\nx.png") == 3 and "\x1b" not in told


def make_checkpoint(path: Path) -> Path:
    from quantsr import checkpoint
    from quantsr.config import ModelConfig, TrainConfig

    config = ModelConfig(upscale=2, channels=16, blocks=4)
    tensors = {f"ema.{name}": tensor for name, tensor in checkpoint.build(config).state_dict().items()}
    checkpoint.save(path, checkpoint.Checkpoint(TrainConfig(model=config), {"history": []}, tensors))
    return path


def test_info_tells_what_to_do_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_checkpoint(tmp_path / "weights.safetensors")
    assert main(["info", str(path)]) == 2
    assert "is a training checkpoint, wanted a packed model; `quantsr pack` makes one of it" in capsys.readouterr().err
    path.write_bytes(b"else")
    assert main(["info", str(path)]) == 2
    assert "checkpoint" not in capsys.readouterr().err


def test_packing_never_overwrites_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_checkpoint(tmp_path / "weights.safetensors")
    (tmp_path / "link").symlink_to(path)
    before = path.read_bytes()
    for output in (path, tmp_path / ".." / tmp_path.name / path.name, tmp_path / "link"):
        assert main(["pack", str(path), "-o", str(output)]) == 2
        assert f"-o: got {output}, which is read; wanted another file" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_packing_overwrites_nothing_unless_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, photo = make_checkpoint(tmp_path / "weights.safetensors"), tmp_path / "photo.jpg"
    photo.write_bytes(b"dear")
    assert main(["pack", str(checkpoint), "-o", str(photo)]) == 2
    assert f"{photo} exists; pass --force to overwrite it" in capsys.readouterr().err
    assert photo.read_bytes() == b"dear"


def test_the_wrong_kind_of_file_is_named(
    tmp_path: Path, photo: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "weights.safetensors")
    assert upscale(photo, "-n", checkpoint) == 2
    assert "is a training checkpoint, wanted a packed model; `quantsr pack` makes one of it" in capsys.readouterr().err
    assert upscale(photo, "-n", photo) == 2
    assert f"{photo}: first bytes: got b" in (told := capsys.readouterr().err) and "`quantsr pack` wrote" in told
    assert main(["pack", str(model), "-o", str(tmp_path / "again.safetensors")]) == 2
    assert "not a readable checkpoint (it is packed already)" in capsys.readouterr().err


def test_help_keeps_the_paragraphs_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    told = capsys.readouterr().out
    assert "-o OUT\n\nOUT holds" in told and "default: Set14 B100" in told


@pytest.mark.parametrize("words", ["models", "--help"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_command_to_which_nobody_listens_ends_quietly(words: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "quantsr", words]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(writing)
    assert done.stderr == b"" and done.returncode in (0, 141)  # argparse passes over a closed pipe


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_behind_stdout(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "quantsr", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, env=environment)
    assert done.returncode == 5 and done.stderr.strip().endswith(b"No space left on device")


def test_models_are_a_table_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert table in Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    heading, *lines = table.splitlines()
    assert heading.split() == ["name", "scale", "bits", "network", "blocks", "PSNR,", "Set14", "file"]
    assert [line.split()[0] for line in lines] == zoo.bundled()
    assert [line.split()[0] for line in lines if line.endswith("default")] == [zoo.default_name(4)]
    psnr = zoo.stored("quantsr-t-x2-w4a4")["scores"]["full"]["Set14"]["psnr"]
    (told,) = (line for line in lines if line.startswith("quantsr-t-x2-w4a4"))
    assert "transformer" in told and f" {psnr:.2f} dB " in told
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {model["scale"]: model["name"] for model in models if model["default"]} == {
        scale: zoo.default_name(scale) for scale in (2, 3, 4)
    }
    assert all(model["scores"] == zoo.stored(model["name"])["scores"] for model in models)


def test_info_tells_the_stored_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "quantsr-c-x4-w4a4"]) == 0
    psnr = zoo.stored("quantsr-c-x4-w4a4")["scores"]["half"]["Set5"]["psnr"]
    assert re.search(rf"^PSNR +at half depth: Set5 {psnr:.2f} dB, Set14", capsys.readouterr().out, re.MULTILINE)


def make_set5(root: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(5):
        folder = root / "Set5" / "HR"
        folder.mkdir(parents=True, exist_ok=True)
        photos.write(folder / f"{index}.png", photos.Photo(random.integers(0, 256, (49, 52, 3), dtype=np.uint8)))


@pytest.mark.parametrize("backend", ["engine", "reference", "torch"])
def test_evaluate_writes_its_table_as_json(model: Path, tmp_path: Path, backend: str) -> None:
    make_set5(tmp_path)
    out = tmp_path / "result.json"
    if backend == "torch":  # that backend wants a network as `quantsr pack` writes it
        from packing.test_lower import make_network, packed

        write(model, packed(make_network(upscale=4)))
    arguments = ["--data", str(tmp_path), "--set", "Set5", "--depth", "all", "--backend", backend, "--json", str(out)]
    assert main(["evaluate", "-n", str(model), *arguments]) == 0
    rows = json.loads(out.read_text())["results"]
    assert [row["depth"] for row in rows] == ["full", "half", "quarter"]
    assert set(rows[0]) == {"model", "set", "scale", "depth", "backend", "fast", "tta", "psnr", "ssim", "images"}
    assert rows[0]["scale"] == 4 and rows[0]["images"] == 5 and 0 < rows[0]["psnr"] < 60


@pytest.mark.parametrize(
    "command, old",
    [("bench", {"rows": []}), ("evaluate -n bicubic-x4 --data .", {"results": []})],
    ids=["bench", "evaluate"],
)
def test_results_as_json_replace_earlier_ones_alone(
    tmp_path: Path,
    command: str,
    old: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the work, which in the last three cases fails for want of a network or the sets."""
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"\x89PNG")
    Path("notes.json").write_text('["mine"]')
    Path("deep.json").write_text("[" * 100_000)
    Path("link").symlink_to("absent")
    for taken in ("photo.png", "notes.json", "deep.json", "link", "."):
        assert main([*command.split(), "--json", taken]) == 2
        told = f"quantsr: --json: {taken} exists and holds no earlier results; choose another FILE\n"
        assert capsys.readouterr().err == told
    assert main([*command.split(), "--json", "photo.png/a.json"]) == 2
    assert Path("photo.png").read_bytes() == b"\x89PNG" and Path("notes.json").read_text() == '["mine"]'
    capsys.readouterr()
    Path("old.json").write_text(json.dumps(old))
    Path("empty.json").touch()
    more = ["-n", "absent"] if command == "bench" else []
    for free in ("old.json", "empty.json", "new/a.json"):
        assert main([*command.split(), *more, "--json", free]) == 2
        assert "--json" not in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert main([*command.split(), "--json", "new/a.json"]) == 5


def test_torch_evaluates_what_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from quantsr import checkpoint
    from quantsr.config import ModelConfig, TrainConfig
    from quantsr.quant import QuantConfig, calibrate, quantize

    make_set5(tmp_path)
    config = TrainConfig(ModelConfig(channels=4, blocks=2), QuantConfig(quantizer="daq"))
    network = checkpoint.build(config.model)
    quantize(network, config.quant)
    calibrate(network, [torch.rand(1, 3, 9, 9)])
    tensors = {f"ema.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(config, {"ranking": [0, 1]}, tensors))
    command = ["evaluate", "-n", str(path), "--data", str(tmp_path), "--set", "Set5"]
    assert main(command) == 2
    assert "runs in torch only: --backend torch scores it" in capsys.readouterr().err
    out = tmp_path / "result.json"
    assert main([*command, "--backend", "torch", "--threads", "1", "--json", str(out)]) == 0
    wanted = evaluate(of_network(network.eval(), "full"), benchmarks.pairs(tmp_path, "Set5", 4), 4)
    assert json.loads(out.read_text())["results"][0]["psnr"] == wanted.psnr


def test_an_output_inside_a_file_is_wrong_usage(
    model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set5(tmp_path)
    arguments = ["--data", str(tmp_path), "--set", "Set5", "--json", str(photo / "result.json")]
    assert main(["evaluate", "-n", str(model), *arguments]) == 2
    assert f"{photo} is a file, wanted a folder" in capsys.readouterr().err


def test_options_of_other_upscalers(
    model: Path, photo: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """realesrgan-ncnn-vulkan's -i and -o, Real-ESRGAN's --suffix."""
    other = tmp_path / "other.png"
    photos.write(other, photos.Photo(images.read(photo)))
    assert upscale("-i", photo, "-i", other, "-o", tmp_path / "out", "--suffix", "{big}", "-n", model) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["other_{big}.png", "photo_{big}.png"]
    assert upscale("-o", tmp_path / "out", "-n", model) == 2
    assert "got no INPUT, wanted an image file or a folder" in capsys.readouterr().err


def test_tta(model: Path, photo: Path) -> None:
    out, other = photo.parent / "out.png", photo.parent / "other.png"
    assert upscale(photo, "-o", out, "-n", model, "-x") == 0
    np.testing.assert_array_equal(images.read(out), quantsr.load(model, tta=True).upscale(images.read(photo)))
    assert upscale(photo, "-o", other, "-n", model) == 0
    assert (images.read(out) != images.read(other)).any()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["-n", "bicubic-x4", "--tta"], "--tta: bicubic-x4 is no network"),
        (["-n", "bicubic-x4", "--backend", "torch"], "--backend: bicubic-x4 is no network"),
        (["--zoo", "--fast"], "--fast: --zoo scores all depths as they are stored"),
        (["--zoo", "--depth", "half"], "--depth: --zoo scores"),
        (
            ["--zoo", "--set", "Set5", "Urban100"],
            "--set: got Urban100, wanted of those with stored scores: B100, Set14",
        ),
    ],
    ids=["bicubic of eight views", "bicubic in torch", "zoo, fast", "zoo, half", "zoo, a set without scores"],
)
def test_evaluate_takes_no_option_that_it_would_not_heed(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments, "--data", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("option", ["fast", "tta"])
def test_evaluate_fast_and_tta(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    make_set5(tmp_path)
    write(model, tiny_model(upscale=4, channels=16))
    out = tmp_path / "result.json"
    arguments = ["evaluate", "-n", str(model), "--data", str(tmp_path), "--set", "Set5", "--json", str(out)]
    scores = []
    for wanted in ([], [f"--{option}"]):
        assert main([*arguments, *wanted]) == 0
        (row,) = json.loads(out.read_text())["results"]
        assert row[option] is bool(wanted)
        scores.append(row["psnr"])
    assert 0 < abs(scores[0] - scores[1]) < 3
    assert main([*arguments, f"--{option}", "--backend", "reference"]) == 2
    assert "wanted engine" in capsys.readouterr().err


def test_evaluate_bicubic_and_a_missing_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set5(tmp_path)
    assert main(["evaluate", "-n", "bicubic-x3", "--data", str(tmp_path), "--set", "Set5"]) == 0
    assert capsys.readouterr().out.startswith("model ")
    for model, sets, wanted in (("bicubic-x3", ["Set5", "Set14"], "wanted 14"), ("absent", ["Set5"], "got model")):
        assert main(["evaluate", "-n", model, "--data", str(tmp_path), "--set", *sets]) == 2
        told = capsys.readouterr()
        assert wanted in told.err and told.out == ""
    assert main(["evaluate", "--zoo", "--data", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "Set14" in told.err and told.out == ""


def test_scoring_with_torch_tells_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["evaluate", "-n", "quantsr-c-x2-w2a2", "--data", ".", "--backend", "torch"]) == 2
    assert "needs the extra train" in capsys.readouterr().err
