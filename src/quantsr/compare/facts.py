"""What a trained network is worth and what it costs."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from quantsr import backends, checkpoint, images, recipe
from quantsr.compare.variants import short_digest
from quantsr.data import benchmarks
from quantsr.engine import Engine
from quantsr.evaluate import evaluate
from quantsr.files import listing, write_atomically
from quantsr.packing.cost import cost
from quantsr.packing.file import dumps
from quantsr.packing.lower import lower
from quantsr.packing.program import PackedModel, PackedModelError
from quantsr.quant import NotPackable, QParams, quantized_layers

Scores = dict[str, dict[str, dict[str, float]]]  # depth -> set -> psnr, ssim

SIDE, ROUNDS = 128, 15  # pixels and turns of the timing


def scores(folder: Path, data: Path, sets: Sequence[str]) -> Scores:
    """PSNR in dB and SSIM of a stage's weights at each of its depths, in PyTorch, as not every method can be packed.

    Kept in the folder, where weights never change, with names and sizes of the pictures.
    """
    kept = folder / "scores.json"
    known: Scores = json.loads(kept.read_text()) if kept.exists() else {}
    network, found = checkpoint.load_network(folder / recipe.WEIGHTS)
    scale, depths = found.config.model.upscale, found.config.run.depths
    keys = {name: f"{name} {short_digest(pictures(data / name, scale))}" for name in sets}
    for depth in depths:
        for name, key in keys.items():
            if key not in known.setdefault(depth, {}):
                score = evaluate(backends.of_network(network, depth), benchmarks.pairs(data, name, scale), scale)
                known[depth][key] = {"psnr": score.psnr, "ssim": score.ssim}
    write_atomically(kept, json.dumps(known, indent=1).encode())
    return {depth: {name: known[depth][key] for name, key in keys.items()} for depth in depths}


def pictures(folder: Path, upscale: int) -> list[list[tuple[str, int]]]:
    """Names and bytes of the files that a set's scores come from, HR and the official LR; see `data.benchmarks`."""
    return [listing(folder / place, (".png",)) for place in ("HR", f"LR_bicubic/X{upscale}")]


def pack(folder: Path) -> PackedModel | str:
    """A stage's weights packed, or why they cannot be."""
    network, found = checkpoint.load_network(folder / recipe.WEIGHTS)
    try:
        return lower(network, name="compared", quant=found.config.quant, depths=found.config.run.depths)
    except (NotPackable, PackedModelError) as why:
        return str(why)


def costs(packed: PackedModel) -> dict[str, Any]:
    """Parameters, bytes of the packed file, and bit operations at full depth (see `packing.cost`)."""
    full = cost(packed.programs["full"], packed.tensors)
    return {"parameters": full.weights + full.biases, "bytes": len(dumps(packed)), "bitops": full.bitops}


def latencies(networks: Mapping[str, PackedModel]) -> dict[str, float]:
    """Median CPU milliseconds of the engine on SIDE x SIDE pixels with one thread; the networks take turns."""
    engines = {name: Engine(packed, threads=1) for name, packed in networks.items()}
    image = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(ROUNDS + 1):
        for name, engine in engines.items():
            start = time.process_time()
            engine(image)
            if turn:  # the first one warms up
                times[name].append(1000 * (time.process_time() - start))
    return {name: median(values) for name, values in times.items()}


@torch.no_grad()
def code_use(folder: Path, photo: images.UInt8) -> dict[str, dict[str, list[float | None]]]:
    """How each layer uses its codes: "weights" and "inputs" -> "unused" and "entropy", a value per layer.

    photo: uint8 (H, W, 3), a low-resolution picture. unused: share of the levels that no value takes. entropy: bits per
    code, at most the bit width. None for a layer whose method has no static codes.
    """
    network, _ = checkpoint.load_network(folder / recipe.WEIGHTS)
    layers = quantized_layers(network)
    inputs: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    network(torch.from_numpy(images.to_float(photo)).permute(2, 0, 1)[None])
    use: dict[str, dict[str, list[float | None]]] = {}
    for name, layer in layers.items():
        sources = {
            "weights": partial(layer.weight_quantizer.codes, layer.weight),
            "inputs": partial(layer.input_codes, inputs[name]),
        }
        for what, source in sources.items():
            table = use.setdefault(what, {"unused": [], "entropy": []})
            for measure, value in _use(source).items():
                table[measure].append(value)
    return use


def _use(source: Callable[[], tuple[torch.Tensor, QParams]]) -> dict[str, float | None]:
    try:
        codes, params = source()
    except NotPackable:
        return {"unused": None, "entropy": None}
    places = (codes.flatten().int() - params.qmin) // params.step
    levels = (params.qmax - params.qmin) // params.step + 1  # fewer than 2^bits where a method leaves one out
    share = torch.bincount(places, minlength=levels) / codes.numel()
    entropy = -(share * share.clamp_min(1e-12).log2()).sum()
    return {"unused": float((share == 0).double().mean()), "entropy": float(entropy)}
