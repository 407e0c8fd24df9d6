"""Checkpoint -> packed model."""

from pathlib import Path

from quantsr import checkpoint
from quantsr.packing.lower import lower
from quantsr.packing.program import PackedModel


def pack_checkpoint(path: Path, *, name: str, licence: str = "") -> PackedModel:
    """The averaged network of a checkpoint, with the depths it was trained for.

    Raises CheckpointError for a file that is none of ours, or a PackedModelError.
    """
    network, found = checkpoint.load_network(path)
    return lower(
        network,
        name=name,
        quant=found.config.quant,
        depths=found.config.run.depths,
        training={"stages": found.state.get("history", [])},
        licence=licence,
    )
