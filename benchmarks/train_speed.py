"""Steps per second of the training loop against a plain eager one.

python benchmarks/train_speed.py PHOTOS [RECIPE [SETTING...]]

Both make the same steps on the same batches, in turns, so that only their ratio counts. Plain: float32 (on a GPU TF32,
as torch has it), NCHW memory, no compilation, unfused Adam. The recipe needs a stage "quantized"; a setting is one of
`quantsr train --with`, such as run.compile=false, which tells what compilation is worth. Some dozens of photographs
suffice. Writes benchmarks/results/train-speed-<device>.json. Uses a GPU if there is one.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantsr import recipe
from quantsr.train import Trainer

ROUNDS, TURN = 7, 5  # turns of each loop, steps in a turn

Step = Callable[[Tensor, Tensor], object]


def main(photos: str, name: str = "practical-x4-w4a4", *settings: str) -> None:
    result = measured(photos, name, settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = Path(__file__).parent / f"results/train-speed-{device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(photos: str, name: str, settings: Iterable[str]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        own = [f"data.photos={photos}", f"data.cache={folder}", f"run.folder={folder}", f"run.device={device}"]
        alone = ["stages.quantized.run.init=", "teacher.weights=", "teacher.feature_weight=0.0"]
        stage = recipe.load(name, [*own, *alone, *settings])["quantized"]
        ours = Trainer(stage)
        batches = [ours.sampler(index) for index in range(TURN)]
        loops = {"plain": plain_loop(Trainer(stage)), "ours": lambda lr, hr: ours.update(lr, hr)}
        times: dict[str, list[float]] = {key: [] for key in loops}
        for turn in range(ROUNDS + 1):
            for key, step in loops.items():
                seconds = timed(step, batches, device)
                if turn:  # the first one compiles and warms up
                    times[key].append(seconds / TURN)
    rates = {key: 1 / median(values) for key, values in times.items()}
    return {
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "recipe": name,
        "settings": list(settings),
        "batch": stage.data.batch,
        "patch": stage.data.patch,
        "steps_per_second": rates,
        "ratio": rates["ours"] / rates["plain"],
    }


def timed(step: Step, batches: Iterable[tuple[Tensor, Tensor]], device: str) -> float:
    start = time.perf_counter()
    for lr, hr in batches:
        step(lr, hr)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plain_loop(trainer: Trainer) -> Step:
    """The textbook's loop over the same network."""
    network = trainer.network.to(memory_format=torch.contiguous_format)
    for module in network.modules():
        module._compiled_call_impl = None  # what Module.compile() sets
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step(lr: Tensor, hr: Tensor) -> None:
        optimizer.zero_grad()
        loss = functional.l1_loss(network(lr.to(trainer.device)), hr.to(trainer.device))
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main(*sys.argv[1:])
