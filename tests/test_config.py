import dataclasses
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantsr import checkpoint, recipe
from quantsr import config as configs
from quantsr.config import ConfigError, TrainConfig
from quantsr.quant import QuantConfig, quantize

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
SECTIONS = [configs.ModelConfig, configs.DataConfig, configs.OptimConfig, configs.TeacherConfig, configs.RunConfig]


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.touch()
    assert recipe.load(path) == {"": TrainConfig()}
    assert TrainConfig().quant is None


def test_values_reach_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[model]\nupscale = 2\n[quant]\nweight_bits = 2\n[optim]\nlearning_rate = 1\n[run]\ndepths = ["full", "half"]\n'
    )
    (config,) = recipe.load(path).values()
    assert (config.model.upscale, config.optim.learning_rate, config.run.depths) == (2, 1.0, ["full", "half"])
    assert type(config.optim.learning_rate) is float
    assert config.quant == QuantConfig(weight_bits=2)


@pytest.mark.parametrize(
    "tables,unknown,nearest",
    [
        ({"optim": {"learning_rat": 1e-3}}, "optim.learning_rat", "learning_rate"),
        ({"quant": {"weights_bits": 4}}, "quant.weights_bits", "weight_bits"),
        ({"run": {"checkpoints_every": 4}}, "run.checkpoints_every", "checkpoint_every"),
        ({"optimizer": {}}, "optimizer", "optim"),
    ],
)
def test_an_unknown_key_names_the_nearest(tables: dict[str, Any], unknown: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{unknown}'; the nearest known one is '{nearest}'"):
        configs.from_dict(tables)


@pytest.mark.parametrize(
    "section,key,value,wanted",
    [
        ("model", "upscale", "4", "int"),
        ("model", "upscale", 4.0, "int"),
        ("model", "upscale", True, "int"),
        ("model", "upsampler", 4, "str"),
        ("run", "bf16", 1, "bool"),
        ("optim", "learning_rate", "fast", "float"),
        ("optim", "learning_rate", True, "float"),
        ("optim", "milestones", 0.5, "a list"),
        ("optim", "milestones", ["half"], "float"),
        ("run", "depths", [1], "str"),
        ("quant", "weight_bits", "2", "int"),
    ],
)
def test_a_wrong_type_is_refused(section: str, key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: got .*, wanted {wanted}"):
        configs.from_dict({section: {key: value}})


@pytest.mark.parametrize("section", ["model", "quant"])
def test_a_section_must_be_a_table(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[{section}\]: got 3, wanted a table"):
        configs.from_dict({section: 3})


@pytest.mark.parametrize(
    "section,key,value",
    [
        ("optim", "schedule", "linear"), ("optim", "steps", 0), ("optim", "ema", 1.0), ("optim", "ema", float("nan")),
        ("optim", "learning_rate", 0.0), ("optim", "learning_rate", float("nan")), ("optim", "warmup", -1),
        ("optim", "temperatures", [1.0, float("inf")]), ("quant", "temperature", float("inf")),
        ("data", "holdout", 1), ("data", "shrunk", [0.5, 1.0]), ("data", "shrunk", [0.0]), ("data", "unpaired", [0.5]),
        ("data", "patch", 0), ("data", "batch", 0),
        ("teacher", "kind", "vgg"), ("teacher", "weight", 1.5), ("teacher", "views", 0), ("teacher", "views", 9),
        ("run", "depths", []), ("run", "depth_weights", [0.5, 0.5]), ("run", "depth_weights", [0.0]),
        ("run", "depths", ["half"]), ("run", "depths", ["full", "full"]), ("run", "depth_weights", [-1.0]),
        ("run", "device", "gpu"), ("model", "upscale", 0), ("model", "upscale", 8), ("model", "channels", 0),
        ("model", "blocks", -1), ("run", "depth_weights", [float("inf")]),
        ("run", "threads", 100_000), ("run", "seed", 2**64),
        ("optim", "beta2", 1.5), ("optim", "milestones", [5.0]), ("optim", "quantizer_rate", float("inf")),
        ("optim", "gradient_clip", -1.0), ("optim", "step_factor", -0.5), ("optim", "final_rate", -0.1),
        ("run", "keep", 0), ("run", "seed", -1),
        ("run", "log_every", 0), ("run", "validate_every", 0), ("run", "checkpoint_every", 0),
        ("run", "calibration_batches", 0), ("run", "max_bad_steps", -1), ("run", "threads", -1),
        ("quant", "weight_bits", 1), ("quant", "act_bits", 5), ("quant", "temperature", -1.0),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused(section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{section}.*got .*wanted"):
        configs.from_dict({section: {key: value}})


@pytest.mark.parametrize("key,value", [("kind", "rlfn"), ("views", 2)])
def test_settings_of_a_teacher_want_one(key: str, value: Any) -> None:
    configs.from_dict({"teacher": {key: value, "weights": "t.pth"}})
    with pytest.raises(ConfigError, match=rf"teacher\.{key}: got {value!r}, wanted teacher\.weights beside it"):
        configs.from_dict({"teacher": {key: value}})


def test_views_have_no_features_to_distil() -> None:
    teacher = {"weights": "t.safetensors", "views": 2}
    configs.from_dict({"teacher": teacher})
    with pytest.raises(ConfigError, match=r"teacher\.views.*got 2, wanted .* 1 with teacher\.feature_weight"):
        configs.from_dict({"teacher": teacher | {"feature_weight": 0.1}})


@pytest.mark.parametrize(
    "changes",
    [{"data": {"unpaired": [1.0]}}, {"teacher": {"weight": 0.9}}, {"run": {"ranking": "sensitivity"}}],
    ids=["as large as the photograph", "photographs teach too", "needs HR"],
)
def test_what_has_no_hr_wants_a_teacher_alone(changes: dict[str, Any]) -> None:
    tables = {"data": {"unpaired": [0.5]}, "teacher": {"weights": "t.pth", "kind": "rlfn", "weight": 1.0}}
    configs.from_dict(tables)
    section, values = next(iter(changes.items()))
    with pytest.raises(ConfigError, match=r"got .*wanted"):
        configs.from_dict(tables | {section: tables.get(section, {}) | values})


@pytest.mark.parametrize("content", ["[model", "steps = = 1", "\xff"], ids=["bracket", "syntax", "encoding"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        recipe.load(path)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        recipe.load(tmp_path / "missing.toml")


@pytest.mark.parametrize("quant", [None, QuantConfig(weight_bits=2, act_bits=3, temperature=0)], ids=["float", "W2A3"])
def test_tables_round_trip(quant: QuantConfig | None) -> None:
    optim = configs.OptimConfig(schedule="step", milestones=[0.25])
    run = configs.RunConfig(depths=["full", "half"], depth_weights=[0.75, 0.25])
    config = TrainConfig(quant=quant, optim=optim, run=run)
    assert configs.from_dict(config.to_dict()) == config


def test_to_dict_covers_every_field() -> None:
    tables = TrainConfig(quant=QuantConfig()).to_dict()
    assert {name: set(table) for name, table in tables.items()} == {
        field.name: {inner.name for inner in dataclasses.fields(kind)}
        for field, kind in zip(
            dataclasses.fields(TrainConfig),
            [SECTIONS[0], QuantConfig, *SECTIONS[1:]],
            strict=True,
        )
    }


@pytest.mark.parametrize("section", [*SECTIONS, QuantConfig], ids=lambda kind: kind.__name__)
def test_every_field_has_a_line_of_doc(section: type) -> None:
    assert section.__doc__
    lines = inspect.getsource(section).splitlines()
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        (line,) = (text for text in lines if re.match(rf"    {field.name}: ", text))
        assert re.search(r"  # \S+.{8,}", line), f"{section.__name__}.{field.name} says nothing of itself"


@pytest.mark.parametrize("name", [*recipe.names(), *RECIPES], ids=lambda path: Path(path).stem)
def test_recipes_load(name: str | Path) -> None:
    for config in recipe.load(name).values():
        network = built(config.model, config.quant)
        for depth in config.run.depths:
            assert network.kept(depth)


@functools.cache
def built(model: configs.ModelConfig, quant: QuantConfig | None) -> nn.Module:
    network = checkpoint.build(model)
    with pytest.MonkeyPatch.context() as patch:  # first steps of weights that nobody reads take long
        patch.setattr("quantsr.quant.rlq.fit_steps", lambda rows, *_: torch.ones(len(rows)))
        assert quant is None or quantize(network, quant)
    return network


def test_there_are_recipes() -> None:
    assert RECIPES and recipe.names()


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone: got 'vgg', wanted one of edsr, swinir"):
        checkpoint.build(configs.ModelConfig(backbone="vgg"))


@pytest.mark.parametrize(
    "settings,name",
    [({"heads": 3}, "heads"), ({"backbone": "swinir", "channels": 60, "upsampler": "paper"}, "upsampler")],
    ids=["edsr", "swinir"],
)
def test_a_setting_of_another_backbone_is_refused(settings: dict[str, Any], name: str) -> None:
    backbone = settings.get("backbone", "edsr")
    with pytest.raises(ConfigError, match=rf"model\.{name}: got .*, wanted .*, the default: backbone '{backbone}' has"):
        checkpoint.build(configs.ModelConfig(**settings))


def test_a_backbone_gets_its_own_settings() -> None:
    settings: dict[str, Any] = {"channels": 12, "blocks": 3, "layers": 1, "heads": 2, "window": 4, "mlp_ratio": 3}
    network = checkpoint.build(configs.ModelConfig(backbone="swinir", **settings))
    assert len(network.body) == 3 and len(network.body[0].layers) == 1 and network.window == 4
    assert network.body[0].layers[0].expand.out_features == 36
    with pytest.raises(ValueError, match=r"got 6 heads of 64 channels, .* wanted .* a multiple of heads as channels"):
        checkpoint.build(configs.ModelConfig(backbone="swinir"))


@pytest.mark.parametrize("backbone,placement", [("edsr", "body"), ("swinir", "linears")])
def test_a_backbone_has_its_placement(backbone: str, placement: str) -> None:
    config = configs.from_dict({"model": {"backbone": backbone}, "quant": {}})
    assert config.quant == QuantConfig(placement=placement)
    assert configs.from_dict(config.to_dict()) == config
    named = configs.from_dict({"model": {"backbone": backbone}, "quant": {"placement": "other"}})
    assert named.quant is not None and named.quant.placement == "other"
