"""What a training run tells: JSON lines for programs, a live line for people, TensorBoard if asked for."""

import json
import math
import platform
import time
from pathlib import Path
from typing import IO, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantsr.config import TrainConfig
from quantsr.files import lock
from quantsr.terminal import Console, shown_together


class RunLog:
    """Context manager around a run. Appends to `folder`/log.jsonl; every line has "step" and "seconds"."""

    def __init__(self, folder: Path, config: TrainConfig, resumed_at: int) -> None:
        self._config, self._first = config, resumed_at
        self._console = Console()
        self._file = _appended(folder / "log.jsonl")
        self._board = summary_writer()(str(folder)) if config.run.tensorboard else None
        self._losses: list[float] = []
        self._start = self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=config.optim.steps, completed=resumed_at, speed="")

    def __enter__(self) -> "RunLog":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def describe(self, quantized: list[str], photos: int, held_out: int, processes: int, bf16: bool) -> None:
        """The first line: configuration, quantized layers, data, machine, and whether it computes in bfloat16."""
        machine = {"machine": _machine(self._config.run.device), "processes": processes, "bf16": bf16}
        machine |= {"torch": torch.__version__}
        data = {"photos": photos, "held_out": held_out}
        self._write(self._first, {"config": self._config.to_dict(), "quantized_layers": quantized} | data | machine)
        quant = self._config.quant
        kind = f"W{quant.weight_bits}A{quant.act_bits} {quant.quantizer}" if quant else "float"
        placed = f"placement {quant.placement}: {shown_together(quantized)}" if quant else "no quantized layer"
        self._console.print(f"{kind}; {placed}")
        self._console.print(f"{photos} photographs train, {held_out} are held out for validation")

    def step(self, step: int, loss: float, rate: float) -> None:
        """Called after every step; writes a line every `log_every` steps. A skipped step has a non-finite loss."""
        self._losses.append(loss)
        every = self._config.run.log_every
        if step % every:
            self._progress.update(self._task, completed=step)
            return
        now = time.monotonic()
        speed = len(self._losses) / (now - self._last)
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        mean = sum(finite) / len(finite) if finite else None  # NaN is not JSON
        skipped = {"skipped": len(self._losses) - len(finite)} if len(finite) < len(self._losses) else {}
        self._write(step, {"loss": mean, "learning_rate": rate, "steps_per_second": round(speed, 3)} | skipped)
        self._scalars(step, {"learning_rate": rate} | ({} if mean is None else {"loss": mean}))
        shown = "none" if mean is None else f"{mean:.5f}"
        self._progress.update(self._task, completed=step, speed=f"{speed:.2f} step/s  loss {shown}")
        self._losses.clear()
        self._last = now

    def validation(self, step: int, psnr: dict[str, float]) -> None:
        """PSNR of each depth."""
        self._write(step, {"psnr": psnr})
        self._scalars(step, {f"psnr/{depth}": value for depth, value in psnr.items()})
        left = self._config.optim.steps - step
        seconds = (time.monotonic() - self._start) / max(1, step - self._first) * left
        scores = ", ".join(f"{depth} {value:.3f} dB" for depth, value in psnr.items())
        self._console.print(f"step {step}: {scores}; {seconds / 60:.0f} min left")

    def _write(self, step: int, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._start, 1)
        self._file.write(json.dumps({"step": step, "seconds": seconds} | values) + "\n")

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)


class Silent:
    """A RunLog that tells nothing: of all processes but the first."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None: ...

    def describe(self, quantized: list[str], photos: int, held_out: int, processes: int, bf16: bool) -> None: ...

    def step(self, step: int, loss: float, rate: float) -> None: ...

    def validation(self, step: int, psnr: dict[str, float]) -> None: ...


def _appended(path: Path) -> IO[str]:
    """The log, open for its next line: after a full disk or a kill the last one may have been cut short.

    Raises FileExistsError while another process has it.
    """
    written = path.read_bytes() if path.exists() else b""
    torn = written and not written.endswith(b"\n")
    file = path.open("a", buffering=1)
    if not lock(file):
        raise FileExistsError(f"{path.parent}: another process trains there; wait for it, or choose another run.folder")
    file.write("\n" if torn else "")
    return file


def summary_writer() -> Any:
    """TensorBoard's class. Raises ImportError that names the extra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        wanted = 'pip install ".[log]" in the source folder of quantsr'
        raise ImportError(f"run.tensorboard needs the extra log: {wanted}") from error
    return SummaryWriter


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The JSON lines of a run's log, without those that a full disk or a kill cut short."""
    return [line for text in (folder / "log.jsonl").read_text().splitlines() if (line := _json(text)) is not None]


def _json(text: str) -> dict[str, Any] | None:
    try:
        line: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line


def _machine(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
