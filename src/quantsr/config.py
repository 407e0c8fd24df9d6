"""Settings of a training run: typed, checked, strict; `recipe` reads them from TOML.

An unknown key is an error that names the nearest known one. Every setting is written into each checkpoint.
"""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from quantsr.models.depth import FRACTIONS
from quantsr.quant.config import QuantConfig


class ConfigError(ValueError):
    """A configuration that cannot be used; says where, what was got and what was wanted."""


@dataclass(frozen=True)
class ModelConfig:
    """The float backbone. A setting that the backbone does not have must stay at its default."""

    backbone: str = "edsr"  # a key of MODELS
    upscale: int = 4  # 2, 3 or 4
    channels: int = 64  # width of the body
    blocks: int = 16  # residual blocks at full depth; groups of Swin layers in "swinir"
    upsampler: str = "direct"  # "direct" or "paper"
    half: int = 0  # blocks kept at half depth, such as 17 of 32; 0: exactly half of them
    quarter: int = 0  # blocks kept at quarter depth, such as 9 of 32; 0: exactly a quarter of them
    layers: int = 6  # swinir: Swin layers of a group
    heads: int = 6  # swinir: attention heads, which share the channels
    window: int = 8  # swinir: pixels on a side of an attention window
    mlp_ratio: int = 2  # swinir: width inside a layer's two linear layers, relative to channels


@dataclass(frozen=True)
class DataConfig:
    """Training photographs and how patches are cut from them."""

    photos: str = "photos"  # folder of photographs, relative to the working directory
    cache: str = "cache"  # folder for decoded HR and LR arrays; safe to delete
    holdout: int = 24  # every n-th photograph by name validates and never trains
    shrunk: list[float] = field(default_factory=list)  # also train on every photograph at these parts of its size
    unpaired: list[float] = field(default_factory=list)  # and as LR at these; a teacher alone says what they become
    augment: list[str] = field(default_factory=lambda: ["turns"])  # some of AUGMENTATIONS
    patch: int = 32  # LR pixels on a side
    batch: int = 16  # patch pairs in a step


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its schedule, and averaging."""

    steps: int = 8000  # optimiser steps in the whole run
    method: str = "adam"  # "adam", or "muon" for the trunk's weights and Adam for the rest; see `optimizers`
    learning_rate: float = 1e-3  # peak, of weights and biases
    quantizer_rate: float = 0.1  # learning rate of quantizer steps and bounds, relative to the weights'
    shift_rate: float = 0.1  # learning rate of quantizer shifts, relative to the weights'
    temperatures: list[float] = field(default_factory=list)  # T in equal shares of the run; empty: quant.temperature
    warmup: int = 200  # steps of linear rise from 0
    schedule: str = "cosine"  # "cosine" to `final_rate`, or "step" at `milestones`
    final_rate: float = 0.01  # last learning rate, relative to the peak (cosine)
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75, 0.9])  # after warm-up (step)
    step_factor: float = 0.5  # what each milestone multiplies (step)
    beta2: float = 0.999  # Adam's second moment decay
    gradient_clip: float = 1.0  # largest gradient norm; 0 is off
    ema: float = 0.999  # decay of the averaged weights, which are the ones validated and exported


@dataclass(frozen=True)
class TeacherConfig:
    """Distillation: of outputs, of trunk features, and of full depth into the shallower ones; see `losses`."""

    weights: str = ""  # a checkpoint of ours, or RLFN's .pth; empty: no teacher
    kind: str = "checkpoint"  # "checkpoint" or "rlfn"
    weight: float = 0.5  # share of the teacher's output in the loss
    views: int = 1  # turned and mirrored views of each patch, 1 to 8, whose mean is that output
    feature_weight: float = 0.0  # weight of the distance between the trunks' attention maps
    sandwich: float = 0.0  # share of full depth's output in the loss of the shallower depths; needs no teacher


@dataclass(frozen=True)
class RunConfig:
    """The run itself."""

    folder: str = "run"  # checkpoints, log and exported weights
    init: str = ""  # checkpoint whose weights to start from; body weights are taken over between upscales
    depths: list[str] = field(default_factory=lambda: ["full"])  # DQA stage two: ["full", "half", "quarter"]
    depth_weights: list[float] = field(default_factory=list)  # loss weight of each depth, 0: not trained; empty: equal
    ranking: str = "small-gain"  # blocks kept first: "small-gain", "large-gain" or "sensitivity"
    seed: int = 0  # of initial weights and of every batch
    device: str = "cpu"  # "cpu" or "cuda"
    threads: int = 0  # CPU threads; 0: torch's default
    bf16: bool = True  # bfloat16 autocast, on machines that multiply in it
    compile: bool = False  # torch.compile the blocks
    calibration_batches: int = 8  # batches that decide signedness and first steps
    log_every: int = 50  # steps between log lines
    validate_every: int = 1000  # steps between validations
    checkpoint_every: int = 500  # steps between checkpoints
    keep: int = 2  # newest checkpoints kept
    max_bad_steps: int = 10  # non-finite steps in a row that are skipped before the run rolls back
    max_rollbacks: int = 3  # returns to the last checkpoint, each at half the learning rate, before the run stops
    tensorboard: bool = False  # also write TensorBoard events (extra `log`)


_SMALLEST = (  # value, section, fields
    (1, "optim", "steps"),
    (0, "optim", "warmup gradient_clip step_factor final_rate"),
    (1, "data", "patch batch"),
    (1, "run", "calibration_batches log_every validate_every checkpoint_every keep"),
    (0, "run", "seed threads max_bad_steps max_rollbacks"),
    (1, "model", "channels blocks layers heads window mlp_ratio"),
    (0, "model", "half quarter"),
    (0, "optim", "quantizer_rate shift_rate"),
    (0, "teacher", "feature_weight"),
)
PLACEMENT_OF = {"swinir": "linears"}  # what is quantized unless [quant] says otherwise; "body" for the rest
AUGMENTATIONS = ("turns", "phases", "channels")  # see `data.augment` and, for phases, `data.patches`
MAX_THREADS = 1024  # far more, and torch crashes
RANKINGS = ("small-gain", "large-gain", "sensitivity")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run needs. Without [quant] the network stays float."""

    model: ModelConfig = field(default_factory=ModelConfig)
    quant: QuantConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _require(self.optim.schedule in ("cosine", "step"), "optim.schedule", self.optim.schedule, '"cosine" or "step"')
        _require(self.model.upscale in (2, 3, 4), "model.upscale", self.model.upscale, "2, 3 or 4")
        _require(self.run.device in ("cpu", "cuda"), "run.device", self.run.device, '"cpu" or "cuda"')
        _require(self.optim.method in ("adam", "muon"), "optim.method", self.optim.method, '"adam" or "muon"')
        _require(
            self.teacher.kind in ("checkpoint", "rlfn"), "teacher.kind", self.teacher.kind, '"checkpoint" or "rlfn"'
        )
        _require(0 <= self.teacher.weight <= 1, "teacher.weight", self.teacher.weight, "0 to 1")
        for name in ("ema", "beta2"):
            value = getattr(self.optim, name)
            _require(0 <= value < 1, f"optim.{name}", value, "0 up to, not including, 1")
        milestones = self.optim.milestones
        _require(all(0 <= m <= 1 for m in milestones), "optim.milestones", milestones, "parts of the run, 0 to 1")
        _require(self.data.holdout >= 2, "data.holdout", self.data.holdout, "2 or more")
        for name, sizes in (("data.shrunk", self.data.shrunk), ("data.unpaired", self.data.unpaired)):
            _require(all(0 < size < 1 for size in sizes), name, sizes, "parts of 1, each above 0 and below 1")
        augment = self.data.augment
        usable = len(set(augment)) == len(augment) and set(augment) <= set(AUGMENTATIONS)
        _require(usable, "data.augment", augment, f"some of {', '.join(AUGMENTATIONS)}, each once")
        unpaired, ranked = self.data.unpaired, self.run.ranking
        alone = bool(self.teacher.weights) and self.teacher.weight == 1
        _require(alone or not unpaired, "data.unpaired", unpaired, "none, or a teacher with teacher.weight = 1")
        _require(ranked != "sensitivity" or not unpaired, "run.ranking", ranked, "a rule that needs no HR")
        depths = self.run.depths
        known = "full" in depths and len(set(depths)) == len(depths) and set(depths) <= set(FRACTIONS)
        _require(known, "run.depths", depths, f"some of {', '.join(FRACTIONS)}, each once, full among them")
        _require(self.run.ranking in RANKINGS, "run.ranking", self.run.ranking, "one of " + ", ".join(RANKINGS))
        teacher = self.teacher
        views = range(1, 2 if teacher.feature_weight else 9)
        _require(teacher.views in views, "teacher.views", teacher.views, "1 to 8, and 1 with teacher.feature_weight")
        _require(0 <= teacher.sandwich <= 1, "teacher.sandwich", teacher.sandwich, "0 to 1")
        weights = self.run.depth_weights
        _require(not teacher.sandwich or depths[0] == "full", "run.depths", depths, '"full" first, as it teaches')
        taught = not teacher.sandwich or not weights or weights[0] > 0
        _require(taught, "run.depth_weights", weights, "full above 0, as it teaches")
        _require(
            not teacher.feature_weight or bool(teacher.weights),
            "teacher.weights", teacher.weights, "a teacher, as teacher.feature_weight is set",
        )  # fmt: skip
        for name, value, default in (("kind", teacher.kind, "checkpoint"), ("views", teacher.views, 1)):
            _require(bool(teacher.weights) or value == default, f"teacher.{name}", value, "teacher.weights beside it")
        temperatures = self.optim.temperatures
        usable = all(0 <= t < math.inf for t in temperatures)
        _require(usable, "optim.temperatures", temperatures, "finite ones, none below 0")
        _require(len(weights) in (0, len(depths)), "run.depth_weights", weights, "one per depth, or none")
        _require(all(0 <= w < math.inf for w in weights), "run.depth_weights", weights, "none below 0, all finite")
        _require(not weights or any(weights), "run.depth_weights", weights, "one above 0")
        _require(self.run.threads <= MAX_THREADS, "run.threads", self.run.threads, f"at most {MAX_THREADS}")
        _require(self.run.seed < 2**63, "run.seed", self.run.seed, "below 2**63")
        rate = self.optim.learning_rate
        _require(0 < rate < math.inf, "optim.learning_rate", rate, "a finite number above 0")
        for smallest, section, names in _SMALLEST:
            for name in names.split():
                value = getattr(getattr(self, section), name)
                _require(smallest <= value < math.inf, f"{section}.{name}", value, f"{smallest} or more, finite")

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as in the TOML file."""
        tables = dataclasses.asdict(self)
        return {name: table for name, table in tables.items() if table is not None}


def from_dict(tables: dict[str, Any]) -> TrainConfig:
    """A TrainConfig from plain tables. Raises ConfigError for an unknown key, a wrong type or a bad value.

    A [quant] without `placement` gets that of the backbone, see PLACEMENT_OF.
    """
    config: TrainConfig = _build(TrainConfig, tables, "")
    placement = PLACEMENT_OF.get(config.model.backbone)
    if config.quant is None or placement is None or "placement" in tables["quant"]:
        return config
    return dataclasses.replace(config, quant=dataclasses.replace(config.quant, placement=placement))


def _build(kind: Any, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"[{where}]: got {table!r}, wanted a table")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0)
            raise ConfigError(f"unknown key {name!r}; the nearest known one is {near[0]!r}")
        values[key] = _convert(hints[key], value, name)
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[{where}]: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, types.UnionType):  # "X | None": a missing table stays None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{name}: got {value!r}, wanted a list")
        return [_convert(typing.get_args(hint)[0], item, name) for item in value]
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{name}: got {value!r}, wanted {hint.__name__}")
    return value


def _require(condition: bool, name: str, got: Any, wanted: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: got {got!r}, wanted {wanted}")
