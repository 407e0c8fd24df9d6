from pathlib import Path
from typing import Any

import pytest

from quantsr import config as configs
from quantsr.config import TrainConfig
from train.runs import Make


@pytest.fixture
def make(tmp_path: Path, photos: Path) -> Make:
    """make(*tables, folder="run"): a config of a tiny x2 run of 12 steps, changed by the tables given."""

    def build(*changes: dict[str, dict[str, Any]], folder: str = "run") -> TrainConfig:
        tables: dict[str, dict[str, Any]] = {
            "model": {"upscale": 2, "channels": 8, "blocks": 2},
            "data": {"photos": str(photos), "cache": str(tmp_path / "cache"), "holdout": 4, "patch": 8, "batch": 2},
            "optim": {"steps": 12, "learning_rate": 2e-3, "warmup": 2, "ema": 0.9},
            "run": {"folder": str(tmp_path / folder), "threads": 1, "checkpoint_every": 5, "validate_every": 6,
                    "log_every": 4, "calibration_batches": 2},
        }  # fmt: skip
        for change in changes:
            for section, values in change.items():
                tables.setdefault(section, {}).update(values)
        return configs.from_dict(tables)

    return build
