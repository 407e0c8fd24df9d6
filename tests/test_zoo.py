"""The bundled models: what their cards and the stored results claim is what the files do."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import quantsr
from quantsr import images, reference, zoo
from quantsr.cli import main
from quantsr.engine import Engine, available_isas

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
NAMES = zoo.bundled()


def short(name: str) -> str:
    """As results are named."""
    return name.removeprefix("quantsr-").removeprefix("c-")


def test_the_promised_models_are_inside() -> None:
    convolutional = {f"quantsr-c-x{scale}-w{bits}a{bits}" for scale in (2, 3, 4) for bits in (2, 3, 4)}
    transformers = {"quantsr-t-x4-w4a4", "quantsr-t-x4-w2a2", "quantsr-t-x2-w4a4"}
    assert convolutional | transformers <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_and_file_belong_together(name: str) -> None:
    path = zoo.find(name)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    info = quantsr.load(name).info
    assert info["name"] == name
    assert name == f"{info['architecture']}-x{info['upscale']}-w{info['weight_bits']}a{info['act_bits']}"
    assert list(info["depths"]) == ["full", "half", "quarter"]
    assert info["licence"] and info["training"]["stages"]


def test_the_zoo_is_checked_by_a_command(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", "--zoo", "--data", str(data_folder / "benchmarks"), "--set", "Set5"]
    assert main([*command, "--json", str(tmp_path / "zoo.json")]) == 0
    assert f"{3 * len(NAMES)} scores, all as stored" in capsys.readouterr().out
    rows = json.loads((tmp_path / "zoo.json").read_text())["results"]
    assert {(row["model"], row["depth"]) for row in rows} == {
        (n, d) for n in NAMES for d in ("full", "half", "quarter")
    }
    records = json.loads(zoo.SCORES.read_text())
    first, second = "quantsr-c-x4-w4a4", "quantsr-c-x4-w2a2"  # the fastest
    records[first]["scores"]["half"]["Set5"]["psnr"] += 0.02
    records[second]["sha256"] = "0" * 64
    (tmp_path / "scores.json").write_text(json.dumps(records))
    monkeypatch.setattr(zoo, "SCORES", tmp_path / "scores.json")
    monkeypatch.setattr(zoo, "bundled", lambda: [first, second])
    assert main(command) == 1
    told = capsys.readouterr().out
    assert told.count("DIFFERS") == 1 and f"{second}: not the file on record (SHA-256)" in told
    assert "2 differences" in told


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_scores_are_those_of_the_results(name: str) -> None:
    results = json.loads((RESULTS / f"quality-{short(name)}.json").read_text())["results"]
    scores = zoo.stored(name)["scores"]
    assert {(row["depth"], row["set"]) for row in results} == {(d, s) for d, sets in scores.items() for s in sets}
    for row in results:
        for kind in ("psnr", "ssim"):
            assert scores[row["depth"]][row["set"]][kind] == pytest.approx(row[kind], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_depth_beats_bicubic_on_the_sample(name: str) -> None:
    model = quantsr.load(name)
    photo = images.read(Path(__file__).parents[1] / "examples" / "photos" / "tapiola.jpg")[:240, :240]
    lr = images.downscale(photo, model.scale)

    def error(sr: images.UInt8) -> float:
        return float(np.mean((sr.astype(float) - photo) ** 2))

    for depth in model.depths:
        assert error(model.upscale(lr, depth=depth)) < 0.9 * error(images.bicubic(lr, model.scale))


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_is_what_the_reference_says_however_it_runs(name: str) -> None:
    packed = zoo.load_packed(name)
    photo = images.read(Path(__file__).parents[1] / "examples" / "photos" / "tapiola.jpg")
    image = images.to_float(photo[60:84, 90:119])
    for depth in packed.programs:
        whole = Engine(packed, depth=depth, threads=1)(image)
        expected = reference.run(packed.programs[depth], packed.tensors, image)
        # no code differs, so only the float32 rounding of the convolutions behind the body is left
        np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-5)
        for isa in available_isas() if depth == "full" else available_isas()[-1:]:
            for tile in (None,) if isa == "ref" else (None, 13):
                got = Engine(packed, depth=depth, threads=2, isa=isa)(image, tile=tile)
                np.testing.assert_array_equal(got, whole, err_msg=f"{depth} {isa} {tile}")
