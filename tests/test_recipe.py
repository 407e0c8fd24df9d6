from pathlib import Path

import pytest

from quantsr import recipe
from quantsr.config import ConfigError

SHARED = '[model]\nupscale = 2\n[quant]\nweight_bits = 3\n[optim]\nsteps = 5\n[run]\nfolder = "runs/a"\n'
STAGES = """
[stages.float]
quant = false
[stages.float.optim]
steps = 9
[stages.quantized.teacher]
weights = "stage:float"
[stages.dqa.run]
depths = ["full", "half"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.toml").write_text(SHARED + STAGES)
    return tmp_path / "a.toml"


def test_stages_share_what_they_do_not_say(file: Path) -> None:
    stages = recipe.load(file)
    assert list(stages) == ["float", "quantized", "dqa"]
    assert [stage.optim.steps for stage in stages.values()] == [9, 5, 5]
    assert [stage.model.upscale for stage in stages.values()] == [2, 2, 2]
    assert [stage.quant and stage.quant.weight_bits for stage in stages.values()] == [None, 3, 3]
    assert stages["dqa"].run.depths == ["full", "half"]


def test_each_stage_starts_from_the_one_before(file: Path) -> None:
    stages = recipe.load(file, ["stages.float.run.init=mine.safetensors"])
    assert [stage.run.folder for stage in stages.values()] == ["runs/a/float", "runs/a/quantized", "runs/a/dqa"]
    assert [stage.run.init for stage in stages.values()] == [
        "mine.safetensors", "runs/a/float/weights.safetensors", "runs/a/quantized/weights.safetensors",
    ]  # fmt: skip
    assert stages["quantized"].teacher.weights == "runs/a/float/weights.safetensors"
    assert stages["dqa"].teacher.weights == ""


def test_a_stage_may_start_elsewhere(file: Path) -> None:
    stages = recipe.load(file, ['stages.dqa.run.init="stage:float"', "stages.quantized.run.init="])
    assert stages["quantized"].run.init == ""
    assert stages["dqa"].run.init == "runs/a/float/weights.safetensors"


def test_overrides_reach_every_stage_or_one(file: Path) -> None:
    stages = recipe.load(file, ["optim.steps=3", "quant.quantizer=lsq", "stages.dqa.data.batch=2"])
    assert [stage.optim.steps for stage in stages.values()] == [3, 3, 3]
    assert [stage.quant and stage.quant.quantizer for stage in stages.values()] == [None, "lsq", "lsq"]
    assert [stage.data.batch for stage in stages.values()] == [16, 16, 2]


def test_settings_of_quant_leave_a_stage_without_it_float(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[stages.float.optim]\nsteps = 3\n[stages.quantized.quant]\nweight_bits = 3\n")
    stages = recipe.load(tmp_path / "a.toml", ["quant.quantizer=lsq"])
    assert [stage.quant and stage.quant.quantizer for stage in stages.values()] == [None, "lsq"]


def test_a_start_for_all_stages_would_be_lost(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"got run\.init for all .*, wanted stages\.NAME\.run\.init.* float, quantized"
    ):
        recipe.load(file, ["run.init=mine.safetensors"])
    file.write_text(SHARED)
    assert recipe.load(file, ["run.init=mine.safetensors"])[""].run.init == "mine.safetensors"


@pytest.mark.parametrize("stages", ["", "[stages.float]\nquant = false\n"], ids=["no stages", "float alone"])
def test_a_float_recipe_has_no_settings_of_quant(tmp_path: Path, stages: str) -> None:
    (tmp_path / "a.toml").write_text("[model]\nupscale = 2\n" + stages)
    assert [stage.quant for stage in recipe.load(tmp_path / "a.toml", ["optim.steps=3"]).values()] == [None]
    with pytest.raises(ConfigError, match=r"got settings of quant, .*weight_bits.*, but the recipe has no \[quant\]"):
        recipe.load(tmp_path / "a.toml", ["quant.weight_bits=2"])


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("stages.flaot.optim.steps=3", "got a setting of stage 'flaot', wanted one of float, quantized, dqa"),
        ("stages.float.quant.weight_bits=2", "got a setting of quant.weight_bits, but the recipe says quant = False"),
    ],
)
def test_a_setting_of_what_is_not_there_is_refused(file: Path, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        recipe.load(file, [text])


def test_a_run_without_stages_has_no_setting_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SHARED)
    with pytest.raises(ConfigError, match="got a setting of stage 'float', wanted one of none: no stages"):
        recipe.load(tmp_path / "a.toml", ["stages.float.optim.steps=7"])


def test_a_file_without_stages_is_one_run(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SHARED)
    (config,) = recipe.load(tmp_path / "a.toml", ["optim.steps=7"]).values()
    assert (config.run.folder, config.optim.steps) == ("runs/a", 7)


def test_a_recipe_changes_what_it_extends(file: Path) -> None:
    (file.parent / "b.toml").write_text('extends = "a.toml"\n[quant]\nweight_bits = 2\n[stages.dqa.optim]\nsteps = 1\n')
    stages = recipe.load(file.parent / "b.toml")
    assert [stage.optim.steps for stage in stages.values()] == [9, 5, 1]
    assert stages["dqa"].quant is not None and stages["dqa"].quant.weight_bits == 2


@pytest.mark.parametrize(
    "text,wanted",
    [
        ('extends = "me.toml"', r"me\.toml: extends itself"),
        ('extends = "no.toml"', r"no\.toml: \[Errno 2\]"),
        ("extends = 3", "wanted the name of a file"),
        ("[stages]", r"stages: got \{\}, wanted tables \[stages\.NAME\]"),
        ('[stages]\nfloat = "yes"', "stages: got"),
        ("[stages]\na = 3", r"stages: got \{'a': 3\}, wanted tables"),
        ("stages = [1]", r"stages: got \[1\], wanted tables"),
        ('extends = "../{folder}/me.toml"', r"me\.toml: extends itself"),
        ('[stages.a.run]\ninit = "stage:b"', "got 'stage:b', wanted an earlier stage: there is none"),
        ("[stages.a.optim]\nstep = 3", "unknown key 'optim.step'; the nearest known one is 'steps'"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "me.toml").write_text(text.replace("{folder}", tmp_path.name))
    for overrides in ([], ["stages.a.run.seed=1"]):
        with pytest.raises(ConfigError, match=wanted):
            recipe.load(tmp_path / "me.toml", overrides)


@pytest.mark.parametrize("text", ["optim.steps", "steps=3", "stages.a.steps=3", "=3", "optim.=3"])
def test_a_bad_override_is_refused(file: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted section\.key=value or stages\.NAME\.section\.key=value"):
        recipe.load(file, [text])


def test_an_unknown_recipe_names_the_known() -> None:
    with pytest.raises(ConfigError, match="got recipe 'x9', wanted a TOML file or one of paper-t-x2-w2a2, "):
        recipe.load("x9")


@pytest.mark.parametrize("name", [name for name in recipe.names() if not name.startswith("small")])
def test_bundled_recipes_are_what_they_are_called(name: str) -> None:
    kind, *transformer, scale, bits = name.split("-")
    stages = recipe.load(name)
    assert list(stages) == ["float", "quantized", "dqa"]
    for stage, config in stages.items():
        assert config.model.upscale == int(scale[1:])
        assert config.model.backbone == ("swinir" if transformer else "edsr")
        assert config.model.blocks == (8 if transformer else {"practical": 16, "paper": 32}[kind])
        quant = config.quant
        assert ("float" if quant is None else f"w{quant.weight_bits}a{quant.act_bits}") == (
            "float" if stage == "float" else bits
        )
    assert stages["dqa"].run.depths == ["full", "half", "quarter"]
    assert stages["dqa"].run.init == stages["quantized"].run.folder + "/weights.safetensors"


def test_the_depths_of_the_released_code_can_be_said() -> None:
    stages = recipe.load("paper-x4-w4a4", ["model.half=17", "model.quarter=9"])
    assert (stages["dqa"].model.half, stages["dqa"].model.quarter) == (17, 9)


def test_a_folder_does_not_hide_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small-x4-w2a2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(recipe.load("small-x4-w2a2")) == ["float", "quantized"]
