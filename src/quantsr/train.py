"""Training: one visible loop for every stage.

Stages differ only in their configuration: a float twin has no [quant]; a quantized network at full depth has it; the
depth-dynamic stage lists several depths, runs the same batch at each and makes one step from the summed loss
(DQA of QuantSR, NeurIPS 2023). A batch depends on (seed, step) alone and the whole state is in the checkpoint, so on a
CPU a resumed run ends bit-equal to an unbroken one.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr import checkpoint as checkpoints
from quantsr import images, metrics
from quantsr.checkpoint import Checkpoint
from quantsr.config import OptimConfig, TrainConfig
from quantsr.data.patches import PatchSampler, Photo, load_photos
from quantsr.models.blocks import ResidualBlock
from quantsr.progress import RunLog
from quantsr.quant import QuantConfig, calibrate, quantize, quantized_layers
from quantsr.teachers import load_teacher

log = logging.getLogger(__name__)

VALIDATION_SIDE = 192  # LR pixels: the centre of each held-out photograph


class TrainingDiverged(RuntimeError):
    """Too many non-finite steps in a row; the last checkpoint is sound."""


class Trainer:
    """A run: network, averaged network, optimiser and data, at some step."""

    def __init__(self, config: TrainConfig) -> None:
        run = config.run
        self.config, self.folder, self.step = config, Path(run.folder), 0
        self.device = torch.device(run.device)
        if run.threads:
            torch.set_num_threads(run.threads)
        torch.manual_seed(run.seed)
        self.train_photos, self.val_photos = split_photos(config)
        self.sampler = PatchSampler(
            self.train_photos, patch=config.data.patch, batch=config.data.batch, seed=run.seed
        )
        source = checkpoints.load(Path(run.init)) if run.init else None
        self.earlier_stages: list[dict[str, Any]] = source.state.get("history", []) if source else []
        self.network = start_network(config, source, self.sampler).to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.network, config.optim)
        self.teacher = load_teacher(config, self.device) if config.teacher.weights else None
        if run.compile:
            for block in self.network.modules():
                if isinstance(block, ResidualBlock):
                    block.compile()  # one block, so that equal blocks share one compilation

    def train(self, minutes: float | None = None) -> None:
        """Runs to the last step, or stops after some minutes with a checkpoint; exports weights at the end."""
        run, total = self.config.run, self.config.optim.steps
        deadline = math.inf if minutes is None else time.monotonic() + minutes * 60
        bad = 0
        with RunLog(self.folder, self.config, resumed_at=self.step) as journal, _prefetched(self) as batches:
            journal.describe(list(quantized_layers(self.network)), len(self.train_photos), len(self.val_photos))
            while self.step < total and time.monotonic() < deadline:
                loss = self.update(*next(batches))
                bad = 0 if math.isfinite(loss) else bad + 1
                if bad > run.max_bad_steps:
                    raise TrainingDiverged(f"step {self.step}: {bad} non-finite losses in a row; lower the rate")
                self.step += 1
                journal.step(self.step, loss, learning_rate(self.config.optim, self.step - 1))
                if self.step % run.validate_every == 0 or self.step == total:
                    journal.validation(self.step, self.validate())
                if self.step % run.checkpoint_every == 0:
                    self.save()
        self.save()
        if self.step == total:
            self.export()

    def update(self, lr: Tensor, hr: Tensor) -> float:
        """One optimiser step; returns the loss. A non-finite loss or gradient leaves every weight as it was."""
        lr, hr = (t.to(self.device, memory_format=torch.channels_last, non_blocking=True) for t in (lr, hr))
        optim = self.config.optim
        rate = learning_rate(optim, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative_rate"]
        self.optimizer.zero_grad()
        loss = self.loss(lr, hr)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), optim.gradient_clip or math.inf)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            log.warning("step %d: non-finite loss or gradient, step skipped", self.step)
            return math.nan
        self.optimizer.step()
        for layer in quantized_layers(self.network).values():
            layer.keep_scales_positive()
        self._average(optim.ema)
        return value

    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Weighted L1 over all depths of the run, against the photograph and, if there is one, the teacher."""
        depths = self.config.run.depths
        weights = self.config.run.depth_weights or [1 / len(depths)] * len(depths)
        share = self.config.teacher.weight if self.teacher is not None else 0.0
        taught = self._teach(lr)
        total = torch.zeros((), device=self.device)
        for depth, weight in zip(depths, weights, strict=True):
            with self._autocast():
                sr = self.network(lr, depth=depth)
            loss = functional.l1_loss(sr.float(), hr)
            if taught is not None:
                loss = (1 - share) * loss + share * functional.l1_loss(sr.float(), taught)
            total = total + weight * loss
        return total

    @torch.no_grad()
    def _teach(self, lr: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with self._autocast():
            return self.teacher(lr).float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.run.bf16)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        decay = min(decay, (self.step + 1) / (self.step + 10))  # the first steps must not dilute the average
        new, old = self.network.state_dict(), self.averaged.state_dict()
        floats = [name for name, tensor in old.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([old[n] for n in floats], [new[n] for n in floats], 1 - decay)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean PSNR-Y in dB of the averaged network on the held-out photographs, for each depth of the run."""
        scores: dict[str, list[float]] = {depth: [] for depth in self.config.run.depths}
        for photo in self.val_photos:
            lr, hr = _centre(photo, self.sampler.upscale)
            x = torch.from_numpy(images.to_float(lr)).permute(2, 0, 1)[None].to(self.device)
            for depth, values in scores.items():
                sr = self.averaged(x, depth=depth)[0].permute(1, 2, 0).cpu().numpy()
                values.append(metrics.psnr(images.to_uint8(sr), hr, self.sampler.upscale))
        return {depth: float(np.mean(values)) for depth, values in scores.items()}

    def save(self) -> None:
        """Writes a checkpoint and drops all but the newest few."""
        path = self.folder / f"checkpoint-{self.step:07d}.safetensors"
        checkpoints.save(path, Checkpoint(self.config, self._state(), self._tensors()))
        for old in checkpoints.saved_steps(self.folder)[self.config.run.keep :]:
            old.unlink()

    def export(self) -> None:
        """Writes the averaged weights alone, for packing and for starting further runs."""
        tensors = {f"ema.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        checkpoints.save(self.folder / "weights.safetensors", Checkpoint(self.config, self._state(), tensors))

    def resume(self) -> bool:
        """Continues from the newest checkpoint that can be read; False if there is none.

        Raises CheckpointError if it is of another network or quantization.
        """
        for path in checkpoints.saved_steps(self.folder):
            try:
                found = checkpoints.load(path)
            except checkpoints.CheckpointError as error:
                log.warning("%s; falling back to the one before", error)
                continue
            for part in ("model", "quant"):
                got, wanted = getattr(found.config, part), getattr(self.config, part)
                if got != wanted:
                    raise checkpoints.CheckpointError(f"{path}: got [{part}] {got}, wanted {wanted}: not the same run")
            self._restore(found)
            return True
        return False

    def _state(self) -> dict[str, Any]:
        stage = {"steps": self.step, **_summary(self.config)}
        return {
            "step": self.step,
            "ranking": list(self.network.ranking),
            "history": [*self.earlier_stages, stage],
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.averaged.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for field, value in self.optimizer.state[parameter].items():
                tensors[f"optim.{field}.{name}"] = value
        return tensors

    def _restore(self, found: Checkpoint) -> None:
        self.step = found.state["step"]
        self.network.load_state_dict(found.part("model"))
        self.averaged.load_state_dict(found.part("ema"))
        for network in (self.network, self.averaged):
            network.set_ranking(found.state["ranking"])
        moments = {field: found.part(f"optim.{field}") for field in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in self.network.named_parameters():
            if name in moments["exp_avg"]:
                state = {f: m[name].to(self.device) for f, m in moments.items()}  # fused Adam counts steps there too
                for field in ("exp_avg", "exp_avg_sq"):
                    state[field] = torch.empty_like(parameter).copy_(state[field])  # the parameter's own layout
                self.optimizer.state[parameter] = state


def split_photos(config: TrainConfig) -> tuple[list[Photo], list[Photo]]:
    """Training and validation photographs, split by file name alone, before anything is learned."""
    data = config.data
    photos = load_photos(Path(data.photos), Path(data.cache), config.model.upscale, data.patch)
    held = [photo for photo in photos if photo.number % data.holdout == 0]
    rest = [photo for photo in photos if photo.number % data.holdout]
    if not rest or not held:
        raise ValueError(
            f"{data.photos}: got {len(rest)} usable photographs to train on and {len(held)} to validate on, wanted "
            f"some of both: add photographs, or change data.holdout ({data.holdout})"
        )
    return rest, held


def _summary(config: TrainConfig) -> dict[str, Any]:
    """What a model card says of a stage."""
    summary = {
        "batch": config.data.batch,
        "patch": config.data.patch,
        "learning_rate": config.optim.learning_rate,
        "depths": config.run.depths,
        "teacher": f"{config.teacher.kind}: {Path(config.teacher.weights).name}" if config.teacher.weights else "none",
    }
    quant = config.quant
    return summary | ({"bits": f"W{quant.weight_bits}A{quant.act_bits}"} if quant else {"bits": "float"})


def start_network(config: TrainConfig, source: Checkpoint | None, sampler: PatchSampler) -> nn.Module:
    """The network at step 0: fresh or with the weights of `source`, then quantized and calibrated."""
    network = checkpoints.build(config.model)
    if source is not None:
        _take_over(network, source.part("ema"))
        if len(source.state["ranking"]) == len(network.ranking):
            network.set_ranking(source.state["ranking"])
    if len(config.run.depths) > 1 and not (source and len(source.config.run.depths) > 1):
        network.rank_blocks()  # once: the weights of a depth-dynamic network are made for their ranking
    if config.quant is None:
        return network
    quantize(network, config.quant)
    if source is not None and _same_codes(source.config.quant, config.quant):
        _take_over(network, source.part("ema"))
    else:
        fresh = range(config.optim.steps, config.optim.steps + config.run.calibration_batches)  # no batch of the run
        calibrate(network, (sampler(index)[0] for index in fresh))
    return network


def _take_over(network: nn.Module, given: dict[str, Tensor]) -> None:
    """Loads every tensor that the network has by the same name and shape, and names the others."""
    own = network.state_dict()
    fitting = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    if not any(name.startswith("body.") for name in fitting):
        raise checkpoints.CheckpointError("run.init: no layer of the body fits this network; wanted equal channels")
    network.load_state_dict(fitting, strict=False)
    if missing := sorted(set(own) - set(fitting)):
        log.warning("not in run.init, so freshly initialised: %s", ", ".join(missing))


def _same_codes(a: QuantConfig | None, b: QuantConfig) -> bool:
    fields = ("weight_bits", "act_bits", "quantizer", "placement")
    return a is not None and all(getattr(a, name) == getattr(b, name) for name in fields)


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Adam:
    """Adam with one group for weights, biases and gains, and one for quantizer steps and shifts."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in network.named_parameters():
        groups["quantizer" in name].append(parameter)
    rates = {False: 1.0, True: config.quantizer_rate}
    return torch.optim.Adam(
        [{"params": p, "relative_rate": rates[q]} for q, p in groups.items() if p],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=True,
    )


def learning_rate(config: OptimConfig, step: int) -> float:
    """The weights' learning rate of a step (0-based): linear warm-up, then cosine or step decay."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** sum(progress >= m for m in config.milestones)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


class _prefetched:
    """Iterator over a trainer's batches that cuts the next one while this one trains."""

    def __init__(self, trainer: Trainer) -> None:
        self._sampler, self._first = trainer.sampler, trainer.step
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        step, coming = self._first, self._pool.submit(self._sampler, self._first)
        while True:
            batch, step = coming.result(), step + 1
            coming = self._pool.submit(self._sampler, step)
            yield batch

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _centre(photo: Photo, upscale: int) -> tuple[images.UInt8, images.UInt8]:
    """The middle of a photograph, at most VALIDATION_SIDE LR pixels on a side."""
    size = [min(side, VALIDATION_SIDE) for side in photo.lr.shape[:2]]
    y, x = ((side - s) // 2 for side, s in zip(photo.lr.shape[:2], size, strict=True))
    lr = np.array(photo.lr[y : y + size[0], x : x + size[1]])
    y, x, height, width = (v * upscale for v in (y, x, *size))
    return lr, np.array(photo.hr[y : y + height, x : x + width])


def run(config: TrainConfig, *, minutes: float | None = None, resume: bool = False) -> Trainer:
    """Trains as configured; the folder afterwards holds log, checkpoints and, once done, `weights.safetensors`.

    Raises FileExistsError if the folder already holds a run and `resume` is False.
    """
    folder = Path(config.run.folder)
    if not resume and checkpoints.saved_steps(folder):
        raise FileExistsError(f"{folder} already holds a run: pass --resume, or choose another run.folder")
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    if resume and trainer.resume():
        log.info("resumed at step %d", trainer.step)
    trainer.train(minutes)
    return trainer


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The JSON lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
