"""Training: one visible loop for every stage.

Stages differ only in their configuration: a float twin has no [quant]; a quantized network at full depth has it; the
depth-dynamic stage lists several depths, runs the same batch at each and makes one step from the summed loss
(DQA of QuantSR, NeurIPS 2023). A batch depends on (seed, step) alone and the whole state is in the checkpoint, so on a
CPU a resumed run ends bit-equal to an unbroken one. Under torchrun several processes share each batch.
"""

import copy
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch

from quantsr import checkpoint as checkpoints
from quantsr.checkpoint import Checkpoint
from quantsr.config import TeacherConfig, TrainConfig
from quantsr.data.patches import PatchSampler
from quantsr.files import remove_leftovers
from quantsr.models import ALIKE
from quantsr.quant import QuantBlock, has_mismatch, keep_valid, quantized_layers, set_processes, set_temperature
from quantsr.recipe import WEIGHTS
from quantsr.train.distributed import Workers
from quantsr.train.gradients import backward
from quantsr.train.held_out import mean_psnr, split_photos
from quantsr.train.losses import Objective, trained_depths
from quantsr.train.optimizers import Optimizer, learning_rate
from quantsr.train.progress import RunLog, Silent
from quantsr.train.start import restored_network, start_network
from quantsr.train.stopping import Stop
from quantsr.train.teachers import load_teacher

log = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """Non-finite losses that no return to the last checkpoint cures; that checkpoint is sound."""


class Trainer:
    """A run: network, averaged network, optimiser and data, at some step.

    workers: this process among those that share the run. rollbacks: returns to a checkpoint so far, each of which
    halved the learning rate.
    """

    def __init__(
        self,
        config: TrainConfig,
        workers: Workers = Workers(),  # noqa: B008 (frozen)
        resume: bool = False,
    ) -> None:
        run = config.run
        self.config, self.folder, self.step, self.rollbacks, self.workers = config, Path(run.folder), 0, 0, workers
        self.went_on = False  # whether steps have been made since this trainer began
        self.device = torch.device(run.device)
        if config.data.batch % workers.count:
            raise ValueError(f"got data.batch {config.data.batch}, wanted a multiple of the {workers.count} processes")
        if run.threads:
            torch.set_num_threads(run.threads)
        torch.manual_seed(run.seed)
        self.train_photos, self.val_photos = split_photos(config)
        data = config.data
        self.sampler = PatchSampler(
            self.train_photos,
            upscale=config.model.upscale,
            patch=data.patch,
            batch=data.batch,
            seed=run.seed,
            augment=data.augment,
        )
        found = self._newest() if resume else None
        self.resumed = found is not None
        self.earlier_stages: list[dict[str, Any]]
        if found:
            self.network, self.earlier_stages = restored_network(config), found.state.get("history", [])[:-1]
        else:
            source = checkpoints.load(Path(run.init)) if run.init else None
            self._compare_held_out(source)
            self.network = start_network(config, source, self.sampler)
            self.earlier_stages = source.state.get("history", []) if source else []
            workers.agree(self.network)
        set_processes(self.network, workers.count)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._averages = _floats(self.averaged), _floats(self.network)
        self.optimizer = Optimizer(self.network, config.optim)
        if found:
            self._restore(found)
        teacher = load_teacher(config, self.device) if config.teacher.weights else None
        self.loss = Objective(config, self.network, teacher)
        if run.compile:
            torch.compiler.reset()  # what an earlier run compiled counts towards a limit, after which nothing is
            functorch.donated_buffer = not has_mismatch(self.network)  # it follows the loss through the same graph
            for module in self.network.modules():
                if isinstance(module, (*ALIKE, QuantBlock)):
                    module.compile()

    def train(self, minutes: float | None = None) -> None:
        """Runs to the last step, or stops after some minutes with a checkpoint; exports weights at the end.

        A run that has ended stays as it is. Raises KeyboardInterrupt when asked to stop, with a checkpoint too.
        """
        if self.step >= self.config.optim.steps and self._exported():
            return
        log_of_run = RunLog(self.folder, self.config, resumed_at=self.step) if self.workers.rank == 0 else Silent()
        with Stop(minutes, self.workers) as stop:
            self._train(log_of_run, stop)
        if self.workers.any(stop.asked):
            left = self.step < self.config.optim.steps
            raise KeyboardInterrupt(f"{self.folder} is at step {self.step}" + ("; --resume goes on" if left else ""))

    def _train(self, log_of_run: RunLog | Silent, stop: Stop) -> None:
        with log_of_run as journal:
            count = sum(photo.size == 1 for photo in self.train_photos)
            layers, held_out = list(quantized_layers(self.network)), len(self.val_photos)
            journal.describe(layers, count, held_out, self.workers.count, self.loss.bf16)
            if self.workers.rank == 0:
                remove_leftovers(self.folder)
            while why := self._advance(journal, stop):
                self._roll_back(why)
        self.save()
        if self.step >= self.config.optim.steps:
            self.export()

    def _advance(self, journal: RunLog | Silent, stop: Stop) -> str:
        """Trains to the last step or until a stop is due; returns "", or why the run must roll back."""
        run, total, bad = self.config.run, self.config.optim.steps, 0
        with _prefetched(self) as batches:
            while self.step < total and not stop.due():
                loss = self.update(*next(batches))
                bad = 0 if math.isfinite(loss) else bad + 1
                if bad > run.max_bad_steps:
                    return f"step {self.step}: {bad} non-finite losses in a row"
                self.step += 1
                self.went_on = True
                journal.step(self.step, loss, self.rate(self.step - 1))
                if self.step % run.validate_every == 0 or self.step == total:
                    journal.validation(self.step, self.validate())
                if self.step % run.checkpoint_every == 0 and not bad:  # a rollback must leave the bad steps behind
                    if why := self._unsound():
                        return why
                    self.save()
        return self._unsound()

    def _unsound(self) -> str:
        """Why this state must not be saved, or ""."""
        sound = all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors().values())
        if not self.workers.any(not sound):
            return ""
        return f"step {self.step}: non-finite values in the weights, their average or the optimiser"

    def _roll_back(self, why: str) -> None:
        """Goes on from the last checkpoint at half the learning rate. Raises TrainingDiverged if that was in vain."""
        rollbacks, limit = self.rollbacks + 1, self.config.run.max_rollbacks
        if rollbacks > limit or not self.resume():
            raise TrainingDiverged(f"{why}, after {rollbacks - 1} of {limit} rollbacks; lower optim.learning_rate")
        self.rollbacks = rollbacks
        log.warning("%s: back to step %d, at 1/%d of the learning rate", why, self.step, 2**rollbacks)

    def rate(self, step: int) -> float:
        """The weights' learning rate of a step (0-based)."""
        return learning_rate(self.config.optim, step) / 2**self.rollbacks

    def update(self, lr: Tensor, hr: Tensor | None) -> float:
        """One optimiser step; returns the loss. A non-finite loss or gradient leaves every weight as it was."""
        lr, hr = self._placed(lr), None if hr is None else self._placed(hr)
        optim = self.config.optim
        self.optimizer.set_rate(self.rate(self.step))
        if optim.temperatures:
            set_temperature(self.network, optim.temperatures[self.step * len(optim.temperatures) // optim.steps])
        self.optimizer.zero_grad()
        loss, mismatch = self.loss(lr, hr)
        backward(self.network, loss, mismatch, self.workers)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), optim.gradient_clip or math.inf)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            log.warning("step %d: non-finite loss or gradient, step skipped", self.step)
            return math.nan
        self.optimizer.step()
        keep_valid(self.network)
        self._average(optim.ema)
        return value

    def _placed(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        decay = min(decay, (self.step + 1) / (self.step + 10))  # the first steps must not dilute the average
        old, new = self._averages
        torch._foreach_lerp_(old, new, 1 - decay)

    def validate(self) -> dict[str, float]:
        """Mean PSNR-Y in dB of the averaged network on the held-out photographs, for each depth of the run."""
        upscale = self.config.model.upscale
        return {
            depth: mean_psnr(partial(self.averaged, depth=depth), self.val_photos, upscale, self.device)
            for depth in self.config.run.depths
        }

    def save(self) -> None:
        """Writes a checkpoint and drops all but the newest few."""
        if self.workers.rank == 0:
            path = self.folder / f"checkpoint-{self.step:07d}.safetensors"
            checkpoints.save(path, Checkpoint(self.config, self._state(), self._tensors()))
            saved = [old for old in checkpoints.saved_steps(self.folder) if old.name <= path.name]
            for old in saved[self.config.run.keep :]:
                old.unlink()
        self.workers.wait()

    def export(self) -> None:
        """Writes the averaged weights alone, for packing and for starting further runs."""
        if self.workers.rank == 0:
            tensors = {f"ema.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
            checkpoints.save(self.folder / WEIGHTS, Checkpoint(self.config, self._state(), tensors))
        self.workers.wait()

    def _exported(self) -> bool:
        """Whether the weights of this step are there, not those of a shorter schedule before."""
        try:
            return bool(checkpoints.load(self.folder / WEIGHTS).state["step"] == self.step)
        except checkpoints.CheckpointError:
            return False

    def resume(self) -> bool:
        """Continues from the newest checkpoint that can be read; False if the folder holds none.

        Raises CheckpointError as `_newest` does.
        """
        found = self._newest()
        if found:
            self._restore(found)
        return found is not None

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint of the folder that can be read, if there is one.

        Raises CheckpointError if none of those there can be read, or if it is of another network, quantization,
        optimiser or depths.
        """
        saved = checkpoints.saved_steps(self.folder)
        for path in saved:
            try:
                found = checkpoints.load(path)
            except checkpoints.CheckpointError as error:
                log.warning("%s; falling back to the one before", error)
                continue
            require_same_run(path, found.config, self.config)
            self._compare_held_out(found)
            return found
        if saved:
            raise checkpoints.CheckpointError(
                f"{self.folder}: got {len(saved)} checkpoints, none readable; move them away or choose a new run.folder"
            )
        return None

    def _compare_held_out(self, before: Checkpoint | None) -> None:
        """Warns of photographs that validate now and may have trained before: others came or went."""
        known = set(before.state.get("held_out", [])) if before else set()
        now = {photo.name for photo in self.val_photos}
        if known & now and now - known:  # none in common are other photographs altogether
            log.warning("held out now but not before, as the folder changed: %s", ", ".join(sorted(now - known)))

    def _state(self) -> dict[str, Any]:
        stage = {"steps": self.step, **_summary(self.config)}
        return {
            "step": self.step,
            "rollbacks": self.rollbacks,
            "ranking": list(self.network.ranking),
            "held_out": [photo.name for photo in self.val_photos],
            "history": [*self.earlier_stages, stage],
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.averaged.state_dict().items()}
        return tensors | {f"optim.{name}": t for name, t in self.optimizer.tensors()}

    def _restore(self, found: Checkpoint) -> None:
        self.step, self.rollbacks = found.state["step"], found.state.get("rollbacks", 0)
        self.network.load_state_dict(found.part("model"))
        self.averaged.load_state_dict(found.part("ema"))
        for network in (self.network, self.averaged):
            network.set_ranking(found.state["ranking"])
        self.optimizer.restore(found.part("optim"))


def require_same_run(path: Path, got: TrainConfig, wanted: TrainConfig) -> None:
    """Raises CheckpointError, with the settings that differ, if a checkpoint of `got` cannot go on as `wanted`."""
    old, new = _settings_that_stay(got), _settings_that_stay(wanted)
    differing = [
        f"{key} {old.get(key)!r}, wanted {new.get(key)!r}" for key in old | new if old.get(key) != new.get(key)
    ]
    if differing:
        raise checkpoints.CheckpointError(
            f"{path}: got {'; '.join(differing)}: not the same run; choose another run.folder, which may start from "
            "this one by run.init"
        )


def _settings_that_stay(config: TrainConfig) -> dict[str, Any]:
    tables = config.to_dict()
    fixed = {
        f"{table}.{key}": value for table in ("model", "quant") for key, value in (tables.get(table) or {}).items()
    }
    return fixed | {"optim.method": config.optim.method, "run.depths": config.run.depths}


def _floats(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _summary(config: TrainConfig) -> dict[str, Any]:
    """What a model card says of a stage."""
    summary = {
        "batch": config.data.batch,
        "patch": config.data.patch,
        "learning_rate": config.optim.learning_rate,
        "method": config.optim.method,
        "depths": list(trained_depths(config.run)),
        "teacher": _teacher(config.teacher) if config.teacher.weights else "none",
    }
    quant = config.quant
    return summary | ({"bits": f"W{quant.weight_bits}A{quant.act_bits}"} if quant else {"bits": "float"})


def _teacher(teacher: TeacherConfig) -> str:
    path = Path(teacher.weights)
    run = path.parent.name if path.name == WEIGHTS else ""  # whose weights they are tells more
    views = f", mean over {teacher.views} views" if teacher.views > 1 else ""
    return f"{teacher.kind}: {run or path.name}, {teacher.weight:g} of the loss{views}"


class _prefetched:
    """Iterator over a trainer's batches that cuts the next one while this one trains."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._first = trainer, trainer.step
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return self._batches()

    def _draw(self, step: int) -> tuple[Tensor, Tensor | None]:
        lr, hr = self._trainer.sampler(step, self._trainer.workers.share)
        if self._trainer.device.type == "cuda":  # only from pinned memory do they travel while the last step computes
            return lr.pin_memory(), None if hr is None else hr.pin_memory()
        return lr, hr

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        step, coming = self._first, self._pool.submit(self._draw, self._first)
        while True:
            batch, step = coming.result(), step + 1
            coming = self._pool.submit(self._draw, step)
            yield batch

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
