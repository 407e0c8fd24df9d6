"""Moves what a quantized network learned from its float start to a float network that trained on from the same start.

python recipes/rebase.py NEW BASE QUANTIZED -o REBASED

NEW and QUANTIZED both began at BASE, all three of one shape. The result is NEW + (QUANTIZED - BASE) for every weight
(task arithmetic: Ilharco et al., ICLR 2023, arXiv 2212.04089), with the quantizers and the ranking of QUANTIZED; it is
a start for training (`run.init`), not an end.
"""

import argparse
from pathlib import Path

from torch import Tensor

from quantsr import checkpoint
from quantsr.checkpoint import Checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="NEW + (QUANTIZED - BASE)")
    for name in ("new", "base", "quantized"):
        parser.add_argument(name, type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rebase(*(checkpoint.load(path) for path in (args.new, args.base, args.quantized)), args.output)


def rebase(new: Checkpoint, base: Checkpoint, quantized: Checkpoint, output: Path) -> None:
    if not new.config.model == base.config.model == quantized.config.model:
        raise SystemExit("got networks of different shapes, wanted three of one")
    ahead, behind = new.part("ema"), base.part("ema")

    def moved(name: str, tensor: Tensor) -> Tensor:
        return tensor.float() + ahead[name].float() - behind[name].float() if name in ahead else tensor

    tensors = {f"ema.{name}": moved(name, tensor) for name, tensor in quantized.part("ema").items()}
    learned = quantized.state["history"][len(base.state["history"]) :]
    state = quantized.state | {"history": [*new.state["history"], *learned]}
    checkpoint.save(output, Checkpoint(quantized.config, state, tensors))


if __name__ == "__main__":
    main()
