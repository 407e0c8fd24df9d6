"""Train a network as a TOML file says.

Run again with --resume after an interruption; the result is the same.
"""

import argparse
import logging
from pathlib import Path

from quantsr.commands.common import USAGE, Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a recipe; see recipes/")
    parser.add_argument("--minutes", type=float, help="stop after so long, with a checkpoint")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of run.folder")


def run(args: argparse.Namespace) -> int:
    try:
        from quantsr import checkpoint, config, train
    except ImportError as error:
        raise Failure(f"training needs torch ({error}): pip install 'quantsr[train]'", USAGE) from error
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        trainer = train.run(config.load(args.config), minutes=args.minutes, resume=args.resume)
    except (ValueError, FileExistsError, checkpoint.CheckpointError) as error:
        raise Failure(error, USAGE) from error
    except train.TrainingDiverged as error:
        raise Failure(error, 1) from error
    print(f"step {trainer.step} of {trainer.config.optim.steps} in {trainer.folder}")
    return 0
