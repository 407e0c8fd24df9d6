"""Runs of a recipe: one stage, or all of them, checked before the first."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from quantsr import checkpoint
from quantsr.checkpoint import Checkpoint
from quantsr.config import ConfigError, TrainConfig
from quantsr.quant import set_temperature
from quantsr.recipe import WEIGHTS
from quantsr.train import distributed
from quantsr.train.progress import summary_writer
from quantsr.train.start import add_quantizers, float_network
from quantsr.train.teachers import load_teacher, require_upscale
from quantsr.train.trainer import Trainer, require_same_run

log = logging.getLogger(__name__)


def run(config: TrainConfig, *, minutes: float | None = None, resume: bool = False) -> Trainer:
    """Trains as configured; the folder afterwards holds log, checkpoints and, once done, `weights.safetensors`.

    Raises FileExistsError if the folder already holds a run and `resume` is False or while another process trains
    there, ConfigError without its device, and KeyboardInterrupt, with a checkpoint, after Ctrl-C or SIGTERM.
    """
    _require_device(config)
    _require_folder(config, resume)
    Path(config.run.folder).mkdir(parents=True, exist_ok=True)
    workers = distributed.join(config.run.device)
    trainer = Trainer(config, workers, resume)
    if resume and not trainer.resumed:
        log.info("no checkpoint in %s yet: it begins at step 0", config.run.folder)
    elif resume:
        halved = f", at 1/{2**trainer.rollbacks} of the learning rate" if trainer.rollbacks else ""
        log.info("resumed at step %d%s", trainer.step, halved)
    trainer.train(minutes)
    return trainer


def run_stages(
    configs: Sequence[TrainConfig], *, minutes: float | None = None, resume: bool = False
) -> Iterator[Trainer]:
    """Runs one stage after the other, each as `run` does; yields each trainer when it has stopped.

    minutes: for all together. With `resume`, a stage that is done is left as it is. Raises what `check` does before
    any of them starts.
    """
    check(configs, resume)
    deadline = None if minutes is None else time.monotonic() + minutes * 60
    went_on = False
    for config in configs:
        if went_on and checkpoint.saved_steps(Path(config.run.folder)):
            log.warning("%s began before the stage before it went on; move it away to train it anew", config.run.folder)
        left = None if deadline is None else max(0.0, (deadline - time.monotonic()) / 60)
        trainer = run(config, minutes=left, resume=resume)
        went_on |= trainer.went_on
        yield trainer
        if trainer.step < config.optim.steps:
            return


def check(stages: Iterable[TrainConfig], resume: bool = False) -> None:
    """Finds before the first stage trains what a later one would fail at: its device, settings, files and folder.

    Raises ConfigError, CheckpointError for weights that cannot be used or a run that cannot go on, FileExistsError as
    `run`, ValueError for what a quantizer or a backbone refuses, and ImportError for a missing extra.
    """
    coming: dict[Path, Checkpoint] = {}  # of the stages before, as untrained as they are
    for config in stages:
        _require_device(config)
        _require_folder(config, resume)
        if config.run.tensorboard:
            summary_writer()
        if not Path(config.data.photos).is_dir():
            raise ConfigError(f"data.photos: got {config.data.photos!r}, wanted a folder of photographs")
        source = None
        if (init := config.run.init) and not (resume and checkpoint.saved_steps(Path(config.run.folder))):
            source = coming.get(Path(init)) or checkpoint.load(_present("run.init", init))
        network = float_network(config, source)
        add_quantizers(network, config, source)
        if config.optim.temperatures:
            set_temperature(network, config.optim.temperatures[0])
        if teacher := config.teacher.weights:
            if (taught := coming.get(Path(teacher))) is not None:
                require_upscale(Path(teacher), taught.config.model.upscale, config.model.upscale)
            else:
                _present("teacher.weights", teacher)
                load_teacher(config, torch.device("cpu"))
        tensors = {f"ema.{name}": tensor for name, tensor in network.state_dict().items()}
        coming[Path(config.run.folder) / WEIGHTS] = Checkpoint(config, {"ranking": list(network.ranking)}, tensors)


def _present(name: str, weights: str) -> Path:
    """The file that a setting names."""
    path = Path(weights)
    if not path.is_file():
        raise ConfigError(f"{name}: got {weights!r}, wanted a file, or an earlier stage's as 'stage:NAME'")
    return path


def _require_folder(config: TrainConfig, resume: bool) -> None:
    """That a run can begin in its folder, or go on from the newest checkpoint that can be read there."""
    folder = Path(config.run.folder)
    saved = checkpoint.saved_steps(folder)
    if saved and not resume:
        raise FileExistsError(f"{folder} already holds a run: pass --resume, or choose another run.folder")
    for path in saved:
        try:
            found = checkpoint.load(path)
        except checkpoint.CheckpointError:
            continue  # `Trainer.resume` tells
        return require_same_run(path, found.config, config)


def _require_device(config: TrainConfig) -> None:
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device: got 'cuda', wanted 'cpu': this torch sees no GPU here")
