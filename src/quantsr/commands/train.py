"""Train a network as a recipe says: all its stages, or one.

Run again with --resume after an interruption; the result is the same. Several processes share the work when torchrun
starts them: torchrun --nproc-per-node 2 --no-python quantsr train RECIPE
"""

import argparse
import logging
from typing import Any

from quantsr.commands.common import USAGE, Failure, extra_needed, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a TOML file, or the name of a recipe of the package")
    parser.add_argument("--list", action="store_true", help="name the recipes of the package and stop")
    parser.add_argument("--stage", help="only this stage")
    parser.add_argument(
        "--with", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="such as optim.steps=100"
    )
    parser.add_argument("--minutes", type=number(0, kind=float), help="stop after so long, with a checkpoint")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of run.folder")


def run(args: argparse.Namespace) -> int:
    with extra_needed("training", "train", "torch"):
        from quantsr import recipe, train
        from quantsr.config import ConfigError
        from quantsr.train import distributed
    if args.list:
        print("\n".join(recipe.names()))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.recipe is None:
            raise ConfigError(f"got no recipe, wanted a TOML file or one of {', '.join(recipe.names())}")
        stages = recipe.load(args.recipe, args.overrides)
        chosen = stages if args.stage is None else {args.stage: _stage(stages, args.stage)}
        for trainer in train.run_stages(list(chosen.values()), minutes=args.minutes, resume=args.resume):
            if trainer.workers.rank == 0:
                print(f"step {trainer.step} of {trainer.config.optim.steps} in {trainer.folder}")
    except (ValueError, FileExistsError, ImportError) as error:  # of the last: an extra that is missing
        raise Failure(error, USAGE) from error
    except train.TrainingDiverged as error:
        raise Failure(error, 1) from error
    distributed.leave()  # not after an error: it waits for processes that wait for this one
    return 0


def _stage(stages: dict[str, Any], name: str) -> Any:
    if name not in stages:
        raise Failure(f"got stage {name!r}, wanted one of {', '.join(stages)}", USAGE)
    return stages[name]
