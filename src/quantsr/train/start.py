"""The network that a run starts with: fresh or from other weights, quantized, calibrated, its blocks ranked."""

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from quantsr.checkpoint import Checkpoint, CheckpointError, build
from quantsr.config import TrainConfig
from quantsr.data.patches import PatchSampler
from quantsr.models.depth import rank_by
from quantsr.quant import QuantConfig, calibrate, quantize, without_shifts
from quantsr.train.growth import make_identity

log = logging.getLogger(__name__)


def start_network(config: TrainConfig, source: Checkpoint | None, sampler: PatchSampler) -> nn.Module:
    """The network at step 0, on its device: fresh or with the weights of `source`, then quantized and calibrated.

    Raises what `float_network` and `add_quantizers` do.
    """
    network = float_network(config, source)
    if source is not None:
        _tell_fresh(network, source)
    add_quantizers(network, config, source)
    device = torch.device(config.run.device)
    network.to(device, memory_format=torch.channels_last)
    first = config.optim.steps
    fresh = range(first, first + config.run.calibration_batches)  # no batch of the run
    calibrate(network, (sampler(index)[0].to(device) for index in fresh))
    if len(config.run.depths) > 1 and not (source and _is_ranked(source)):
        # once: the weights of a depth-dynamic network are made for their ranking
        batches = ([part if part is None else part.to(device) for part in sampler(index)] for index in fresh)
        network.set_ranking(rank_blocks(network, config.run.ranking, batches))
    return network


def restored_network(config: TrainConfig) -> nn.Module:
    """A network, on its device, to take the state of a checkpoint of the same run: nothing is calibrated or ranked."""
    network = build(config.model)
    if config.quant is not None:
        quantize(network, config.quant)
    return network.to(torch.device(config.run.device), memory_format=torch.channels_last)


def float_network(config: TrainConfig, source: Checkpoint | None) -> nn.Module:
    """The network before it is quantized. Raises CheckpointError if `source` is deeper, or none of it fits."""
    network = build(config.model)
    if source is not None:
        blocks = source.config.model.blocks
        if blocks > config.model.blocks:
            raise CheckpointError(f"run.init: got {blocks} blocks, wanted at most {config.model.blocks}")
        fitting = _fitting(network, without_shifts(source.part("ema")))
        if not any(name.startswith("body.") and tensor.dim() > 1 for name, tensor in fitting.items()):
            raise CheckpointError("run.init: no layer of the body fits this network; wanted equal channels")
        network.load_state_dict(fitting, strict=False)
        network.set_ranking([*source.state["ranking"], *range(blocks, config.model.blocks)])
    return network


def add_quantizers(network: nn.Module, config: TrainConfig, source: Checkpoint | None) -> None:
    """Quantizes a float network, in place, before calibration; blocks that `source` lacks become the identity.

    What the quantizers of a source of the same codes have learned is taken over. Raises CheckpointError where blocks
    cannot be added, and what `quant.quantize` does.
    """
    if config.quant is not None:
        quantize(network, config.quant)
        if source is not None and _same_codes(source.config.quant, config.quant):
            network.load_state_dict(_fitting(network, source.part("ema")), strict=False)
    make_identity(network, source.config.model.blocks if source else config.model.blocks)


@torch.no_grad()
def rank_blocks(network: nn.Module, rule: str, batches: Iterable[Sequence[Tensor | None]]) -> tuple[int, ...]:
    """Block indices in the order they are kept as depth shrinks.

    rule: "small-gain", the paper's (where the shortcut's gain is large, the identity matters more than the block);
    "large-gain", its opposite; "sensitivity", blocks first whose absence raises the L1 loss on the batches most.
    """
    gains = [float(block.gain.detach()) for block in network.body]
    if rule == "small-gain":
        return rank_by(gains)
    if rule == "large-gain":
        return rank_by([-gain for gain in gains])
    losses = [0.0] * len(gains)
    for lr, hr in batches:
        for block in range(len(gains)):
            others = [index for index in range(len(gains)) if index != block]
            losses[block] += float((network(lr, depth=others) - hr).abs().mean())
    return rank_by([-loss for loss in losses])


def _is_ranked(source: Checkpoint) -> bool:
    """Whether it, or a run that it comes from, was depth-dynamic."""
    earlier = [stage.get("depths", ()) for stage in source.state.get("history", [])]
    return any(len(depths) > 1 for depths in (source.config.run.depths, *earlier))


def _fitting(network: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors that the network has by the same name and shape."""
    own = network.state_dict()
    return {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}


def _tell_fresh(network: nn.Module, source: Checkpoint) -> None:
    """Warns of tensors of a float network that the source does not give; added blocks are expected."""
    added = tuple(f"body.{block}." for block in range(source.config.model.blocks, len(network.body)))
    fresh = set(network.state_dict()) - set(_fitting(network, source.part("ema")))
    if told := sorted(name for name in fresh if not name.startswith(added)):
        log.warning("not in run.init, so freshly initialised: %s", ", ".join(told))


def _same_codes(a: QuantConfig | None, b: QuantConfig) -> bool:
    fields = ("weight_bits", "act_bits", "quantizer", "placement", "weight_grid", "weight_shift", "act_shift")
    return a is not None and all(getattr(a, name) == getattr(b, name) for name in fields)
