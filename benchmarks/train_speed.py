"""Steps per second of the training loop against a plain eager one: python benchmarks/train_speed.py PHOTOS [RECIPE]

Both make the same steps on the same batches, in turns, so that only their ratio counts. Plain: float32, NCHW memory, no
compilation, unfused Adam. Writes benchmarks/results/train-speed-<device>.json. Uses a GPU if there is one.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from quantsr import recipe
from quantsr.train import Trainer

ROUNDS, TURN = 7, 5  # turns of each loop, steps in a turn


def main(photos: str, name: str = "practical-x4-w4a4") -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"data.photos={photos}", f"data.cache={folder}", f"run.folder={folder}", f"run.device={device}"]
        config = recipe.load(name, [*settings, "run.init=", "teacher.weights=", "teacher.feature_weight=0.0"])
        stage = config["quantized"]
        ours, plain = Trainer(stage), Trainer(stage)
        loops = {"ours": ours_loop(ours), "plain": plain_loop(plain)}
        times: dict[str, list[float]] = {key: [] for key in loops}
        for turn in range(ROUNDS + 1):
            for key, step in loops.items():
                seconds = timed(step, device)
                if turn:  # the first one compiles and warms up
                    times[key].append(seconds / TURN)
    rates = {key: 1 / median(values) for key, values in times.items()}
    result = {
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "recipe": name,
        "batch": stage.data.batch,
        "patch": stage.data.patch,
        "steps_per_second": rates,
        "ratio": rates["ours"] / rates["plain"],
    }
    path = Path(__file__).parent / f"results/train-speed-{device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def timed(step: Callable[[int], None], device: str) -> float:
    start = time.perf_counter()
    for index in range(TURN):
        step(index)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ours_loop(trainer: Trainer) -> Callable[[int], None]:
    def step(index: int) -> None:
        trainer.update(*trainer.sampler(index))

    return step


def plain_loop(trainer: Trainer) -> Callable[[int], None]:
    """The textbook's loop over the same network."""
    network = trainer.network.to(memory_format=torch.contiguous_format)
    for module in network.modules():
        module._compiled_call_impl = None  # what Module.compile() sets
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, foreach=False)

    def step(index: int) -> None:
        lr, hr = (t.to(trainer.device) for t in trainer.sampler(index))
        optimizer.zero_grad()
        loss = functional.l1_loss(network(lr), hr)
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main(*sys.argv[1:])
