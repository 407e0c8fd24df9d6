"""Training: networks from photographs, as a recipe says."""

from quantsr.train.held_out import mean_psnr, split_photos
from quantsr.train.optimizers import learning_rate
from quantsr.train.progress import read_log
from quantsr.train.runs import check, run, run_stages
from quantsr.train.start import rank_blocks, start_network
from quantsr.train.trainer import Trainer, TrainingDiverged

__all__ = [
    "Trainer",
    "TrainingDiverged",
    "check",
    "learning_rate",
    "mean_psnr",
    "rank_blocks",
    "read_log",
    "run",
    "run_stages",
    "split_photos",
    "start_network",
]
