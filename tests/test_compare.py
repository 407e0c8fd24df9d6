import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantsr import checkpoint, images, photos, recipe
from quantsr.cli import main
from quantsr.compare import facts, report
from quantsr.compare.variants import stages_of, variants
from quantsr.config import ConfigError, ModelConfig, TrainConfig
from quantsr.files import lock
from quantsr.quant import QParams, QuantConfig, calibrate, quantize
from quantsr.train import distributed

RECIPE = """
[model]
upscale = 2
channels = 8
blocks = 2
[quant]
weight_bits = 2
act_bits = 2
[data]
photos = "{photos}"
cache = "{cache}"
holdout = 4
patch = 8
batch = 2
[optim]
steps = 3
warmup = 1
[run]
threads = 1
bf16 = false
validate_every = 2
calibration_batches = 1
[stages.float]
quant = false
[stages.float.run]
seed = 5
[stages.dqa.run]
depths = ["full", "half"]
"""


@pytest.fixture
def file(tmp_path: Path, photos: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(photos=photos, cache=tmp_path / "cache"))
    return path


def test_all_combinations_are_variants() -> None:
    found = variants(["a/x.toml", "y"], ["quant.quantizer=rlq,lsq", "quant.weight_bits=2,3"])
    assert [variant.name for variant in found] == [
        "x rlq 2", "x rlq 3", "x lsq 2", "x lsq 3", "y rlq 2", "y rlq 3", "y lsq 2", "y lsq 3",
    ]  # fmt: skip
    assert found[1].settings == ("quant.quantizer=rlq", "quant.weight_bits=3")
    assert [variant.name for variant in variants(["y"], [])] == ["y"]
    with pytest.raises(ConfigError, match=r"got 'quant\.quantizer', wanted section\.key=value,value"):
        variants(["y"], ["quant.quantizer"])
    with pytest.raises(ConfigError, match="got several variants named x, wanted a name for each"):
        variants(["a/x.toml", "b/x.toml", "y"], [])


def test_variants_share_what_is_equal(file: Path, tmp_path: Path) -> None:
    rlq, lsq = variants([str(file)], ["quant.quantizer=rlq,lsq"])
    one, two, again, seed = (
        stages_of(variant, [], seed, tmp_path) for variant, seed in ((rlq, 0), (lsq, 0), (rlq, 0), (rlq, 1))
    )
    assert one == again
    assert one[0] == two[0] == seed[0]  # the float stage sets its own seed
    assert len({stages[1].run.folder for stages in (one, two, seed)}) == 3
    assert one[1].run.init == str(Path(one[0].run.folder) / recipe.WEIGHTS)
    changed = stages_of(rlq, ["stages.float.optim.steps=4"], 0, tmp_path)
    assert changed[1].run.folder != one[1].run.folder  # a stage is also what it starts from


@pytest.mark.parametrize("setting", ["run.init", "teacher.weights"])
def test_other_weights_or_photographs_are_another_stage(file: Path, tmp_path: Path, photos: Path, setting: str) -> None:
    (variant,) = variants([str(file)], [])
    weights, own = tmp_path / "weights.safetensors", tmp_path / "own"
    shutil.copytree(photos, own)
    settings = [f"stages.float.{setting}={weights}", f"data.photos={own}"]
    folders = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        folders.append(stages_of(variant, settings, 0, tmp_path)[0].run.folder)
    assert folders[0] == folders[2] != folders[1]
    next(own.iterdir()).unlink()
    assert stages_of(variant, settings, 0, tmp_path)[0].run.folder != folders[0]


def test_what_training_does_not_read_is_no_other_stage(file: Path, tmp_path: Path, photos: Path) -> None:
    (variant,) = variants([str(file)], [])
    before = stages_of(variant, [], 0, tmp_path)
    for name in (".DS_Store", "licence.txt", "cache/0.png", "raw/8.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"any")
    assert stages_of(variant, [], 0, tmp_path) == before
    (photos / "8.JPG").write_bytes(b"any")  # not readable, yet it counts when photographs are held out
    assert stages_of(variant, [], 0, tmp_path) != before


def test_a_comparison_may_be_moved(file: Path, tmp_path: Path, photos: Path) -> None:
    (variant,) = variants([str(file)], [])
    names = [[Path(stage.run.folder).name for stage in stages_of(variant, [], 0, Path(home))] for home in ("a", "/b")]
    assert names[0] == names[1]
    shutil.copytree(photos, tmp_path / "elsewhere")
    moved = stages_of(variant, [f"data.photos={tmp_path / 'elsewhere'}", "data.cache=other"], 0, tmp_path)
    assert [Path(stage.run.folder).name for stage in moved] == names[0]


def test_what_no_file_may_hold_is_a_reason(tmp_path: Path) -> None:
    model = ModelConfig(backbone="swinir", upscale=2, channels=4, blocks=1, layers=1, heads=2, window=20)
    config = TrainConfig(model=model, quant=QuantConfig(2, 2, placement="linears_products"))
    network = checkpoint.build(model)
    quantize(network, config.quant)
    calibrate(network, [torch.rand(1, 3, 8, 8)])
    tensors = {f"ema.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save(tmp_path / recipe.WEIGHTS, checkpoint.Checkpoint(config, {"ranking": [0]}, tensors))
    assert re.fullmatch(r".*window: got 20, wanted .*\.", why := str(facts.pack(tmp_path))), why
    assert "file" not in why


def test_what_scoring_does_not_read_is_no_other_set(tmp_path: Path) -> None:
    for name in ("HR/a.png", "LR_bicubic/X2/ax2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"any")
    before = facts.pictures(tmp_path, 2)
    for name in ("HR/Thumbs.db", "LR_bicubic/X4/ax4.png", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"any")
    assert facts.pictures(tmp_path, 2) == before
    (tmp_path / "LR_bicubic/X2/ax2.png").write_bytes(b"other")
    assert facts.pictures(tmp_path, 2) != before


def test_a_comparison_goes_from_recipes_to_a_table(
    file: Path, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compare", str(file), "--vary", "quant.quantizer=rlq,lsq,daq", "--seeds", "0", "1", "--set", "Set5"]
    command += ["--data", str(data_folder / "benchmarks"), "-o", str(out)]
    assert main(command) == 0
    assert len(list((out / "stages").iterdir())) == 1 + 3 * 2
    record = json.loads((out / "compare.json").read_text())
    rows = record["rows"]
    assert record["sets"] and record["machine"]["cpu"] and record["versions"]["torch"]
    assert [row["name"] for row in rows] == ["tiny rlq", "tiny lsq", "tiny daq"]
    for row in rows:
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        assert all(set(run["scores"]) == {"full", "half"} for run in row["runs"])
        assert [step for step, _ in row["runs"][0]["curve"]] == [2, 3]
        assert ("costs" in row) == ("latency_ms" in row) == ("not_packed" not in row) == (row["name"] != "tiny daq")
    rlq = rows[0]
    assert rlq["costs"]["bytes"] > 2000 and rlq["latency_ms"] > 0
    assert len(rlq["code_use"]["weights"]["entropy"]) == 4
    assert all(0 <= bits <= 2 for bits in rlq["code_use"]["inputs"]["entropy"])
    assert all(share in (0, 0.25, 0.5, 0.75) for share in rlq["code_use"]["weights"]["unused"])
    assert rows[2]["code_use"]["weights"]["entropy"] == [None] * 4  # DAQ's weights have no codes
    page = (out / "compare.md").read_text()
    stage = "3 steps of 2 patches of 8 x 8"
    for line in (
        "network: edsr x2, 2 blocks of 8 channels",
        f"training: {stage}, then {stage} LR pixels; 6 photographs",
        "given by --with: none",
        "placement body: weights and inputs of both convolutions of every block; the shortcut is float",
    ):
        assert f"\n- {line}\n" in page
    assert page in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")} == before  # nothing again
    for path in out.rglob("scores.json"):
        known = json.loads(path.read_text())
        more = {depth: scores | {"Set14 0": next(iter(scores.values()))} for depth, scores in known.items()}
        path.write_text(json.dumps(more))
        break  # one network was scored on more before
    assert main(command) == 0 and "Set14 |" not in (out / "compare.md").read_text()
    other = tmp_path / "other"
    shutil.copytree(data_folder / "benchmarks" / "Set5", other / "Set5")
    darker = next((other / "Set5" / "HR").iterdir())
    photos.write(darker, photos.Photo(images.read(darker) // 2))
    command[command.index("--data") + 1] = str(other)
    assert main(command) == 0  # other pictures, other scores
    again = json.loads((out / "compare.json").read_text())["rows"]
    assert all(a["runs"][0]["scores"] != b["runs"][0]["scores"] for a, b in zip(rows, again, strict=True))


def test_a_bad_axis_is_a_usage_error(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(file), "--data", str(tmp_path), "-o", str(tmp_path / "out"), "--vary"]
    assert main([*command, "quant.quantizer=rlq,xyz"]) == 2
    assert "got quantizer 'xyz', wanted one of rlq, lsq" in capsys.readouterr().err
    assert main([*command, "quant.quantizer=rlq,lsq"]) == 2
    assert "Set14/HR: got 0 PNG images" in capsys.readouterr().err
    assert not (tmp_path / "out" / "stages").exists()  # nothing was trained for it


def test_the_same_run_is_not_compared_with_itself(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(file), "--data", str(tmp_path), "-o", str(tmp_path / "out"), "--seeds", "0", "1"]
    assert main([*command, "--with", "run.seed=7"]) == 2
    assert "got tiny with seed 0 and tiny with seed 1, which are one and the same run" in capsys.readouterr().err


def test_what_diverges_is_a_result(
    file: Path, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compare", str(file), "--vary", "stages.dqa.optim.learning_rate=1e30,1e-3", "--set", "Set5"]
    command += ["--with", "run.max_bad_steps=0", "--data", str(data_folder / "benchmarks"), "-o", str(out)]
    assert main(command) == 0
    lost, sound = json.loads((out / "compare.json").read_text())["rows"]
    assert lost["runs"] == [] and "1 non-finite losses in a row" in lost["diverged"]["0"]
    assert len(sound["runs"]) == 1 and sound["diverged"] == {}
    page = (out / "compare.md").read_text()
    assert "- tiny 1e30 with seed 0 diverged: step" in page and "| tiny 1e-3 | 1 | full |" in page
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("log.jsonl")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("log.jsonl")} == before  # not tried again


def test_two_comparisons_do_not_train_one_stage(
    file: Path, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (variant,) = variants([str(file)], [])
    folder = Path(stages_of(variant, [], 0, out / "stages")[0].run.folder)
    folder.mkdir(parents=True)
    with (folder / "log.jsonl").open("w") as held:
        lock(held)
        command = ["compare", str(file), "--set", "Set5", "--data", str(data_folder / "benchmarks"), "-o", str(out)]
        assert main(command) == 2
    assert "another process trains there" in capsys.readouterr().err


def test_an_extra_that_is_missing_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(file.parent)
    assert main(["train", str(file), "--stage", "float", "--with", "run.tensorboard=true"]) == 2
    assert 'run.tensorboard needs the extra log: pip install ".[log]"' in capsys.readouterr().err


SETUP = {
    "network": {"backbone": "edsr", "upscale": 4, "blocks": 8, "channels": 32},
    "stages": [{"steps": 6000, "batch": 8, "patch": 24}],
    "photos": 225,
    "with": ["optim.ema=0.9", "data.holdout=4"],
    "placement": "p: q",
}


def run_of(set14: float, b100: float) -> dict[str, Any]:
    scores = {"full": {"Set14": {"psnr": set14, "ssim": 0.7}, "B100": {"psnr": b100, "ssim": 0.6}}}
    return {"seed": 0, "scores": scores, "curve": []}


def test_a_process_that_failed_does_not_wait_for_the_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(distributed, "leave", lambda: left.append(True))
    assert main(["train", str(file), "--stage", "float", "--with", "data.batch=0"]) == 2 and not left
    assert main(["train", str(file), "--stage", "float"]) == 0 and left


def test_the_speed_of_training_is_measured(
    file: Path, photos: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = script("train_speed")
    monkeypatch.setattr(speed, "ROUNDS", 1)
    file.write_text(file.read_text() + "[stages.quantized]\n")
    result = speed.measured(str(photos), str(file), ["run.compile=false"])
    assert result["steps_per_second"]["ours"] > 0 and result["ratio"] > 0


def test_the_table_ranks_by_the_mean_of_the_decisive_sets() -> None:
    rows = [
        {**SETUP, "name": "worse", "runs": [run_of(28, 27), run_of(29, 27)], "not_packed": "no codes"},
        {**SETUP, "name": "better", "runs": [run_of(27, 29)], "latency_ms": 4.25,
         "costs": {"parameters": 1234, "bytes": 567, "bitops": 89e9}},
    ]  # fmt: skip
    lines = report.markdown(rows).splitlines()
    assert lines[2] == "| better | 1 | full | 27.000 / 0.7000 | 29.000 / 0.6000 | 28.000 | 1,234 | 567 | 89 G | 4.2 |"
    assert lines[3] == (
        f"| worse | 2 | full | 28.500 ± {math.sqrt(0.5):.3f} / 0.7000 | 27.000 ± 0.000 / 0.6000 "
        f"| 27.750 ± {math.sqrt(0.125):.3f} | - | - | - | - |"
    )
    assert lines[5:] == [
        "- network: edsr x4, 8 blocks of 32 channels",
        "- training: 6,000 steps of 8 patches of 24 x 24 LR pixels; 225 photographs",
        "- given by --with: `optim.ema=0.9`, `data.holdout=4`",
        "- placement p: q",
        "- worse is not packed: no codes",
    ]


def test_what_differs_is_told_with_its_rows() -> None:
    rows = [{**SETUP, "name": name, "placement": f"{name}: q", "runs": [run_of(28, 27)]} for name in ("one", "two")]
    lines = report.markdown(rows).splitlines()
    assert lines[-2:] == ["- placement one: q (one)", "- placement two: q (two)"]
    assert "- network: edsr x4, 8 blocks of 32 channels" in lines


def test_the_mean_of_the_decisive_sets_wants_all_of_them() -> None:
    run = run_of(28, 27)
    del run["scores"]["full"]["B100"]
    assert report.decisive(run, "full") is None
    row = {**SETUP, "name": "one", "runs": [run]}
    assert "| one | 1 | full | 28.000 / 0.7000 | - | - | - | - | - |" in report.markdown([row])


def test_a_level_that_a_method_has_not_is_not_unused() -> None:
    """PAMS has 2^b - 1 levels."""
    params = QParams(bits=2, qmin=-1, qmax=1, scale=torch.ones(()))
    use = facts._use(lambda: (torch.tensor([-1, 0, 1, 0], dtype=torch.int8), params))
    assert use["unused"] == 0 and use["entropy"] == 1.5


def test_the_use_of_codes_is_drawn_by_entropy_and_by_unused_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {}
    monkeypatch.setattr(
        pytest.importorskip("matplotlib.figure").Figure,
        "savefig",
        lambda figure, path, **_: figures.update({path.name: figure}),
    )
    use = {"weights": {"entropy": [1.5, 0.5], "unused": [0.0, 0.25]}, "inputs": {"entropy": [None], "unused": [None]}}
    rows = [{**SETUP, "name": name, "runs": [run_of(28, 27)], "code_use": use} for name in ("one", "two")]
    report.plots(rows, tmp_path)
    drawn = {axis.get_title(): axis.images[0].get_array() for axis in figures["codes.png"].axes if axis.get_title()}
    assert list(drawn) == [
        "inputs: entropy, bits", "weights: entropy, bits",
        "inputs: share of levels unused", "weights: share of levels unused",
    ]  # fmt: skip
    assert drawn["weights: share of levels unused"].tolist() == [[0.0, 0.25]] * 2
    assert drawn["inputs: entropy, bits"].mask.all()  # layers without codes stay blank


def test_the_page_of_ablations_shows_every_result_as_it_was_measured(script: Callable[[str], Any]) -> None:
    pytest.importorskip("matplotlib")
    ablations = script("ablations")
    results = ablations.read(ablations.ROOT / "benchmarks/results/ablations")
    page = ablations.PAGE.read_text(encoding="utf-8")
    assert ablations.filled(page, results) == page
    assert [name for name in results if ablations.START.format(name) not in page] == []
    assert [path.name for path in ablations.PICTURES.glob("rivals*.png") if f"pictures/{path.name}" not in page] == []
    several = {name: result for name, result in results.items() if len(result["rows"]) > 1}
    assert [axis.get_title() for axis in ablations.draw(several).axes if axis.get_title()] == list(several)
    assert "pictures/ablations.png" in page
