"""The one place that opens a pickle: PyTorch's weights-only loader, which makes tensors and runs nothing."""

from pathlib import Path
from typing import Any

import torch

FIRST_SAFE = (2, 6)  # in earlier versions of torch a file could get around the loader (CVE-2025-32434)


class PickleRefused(ValueError):
    """A file that is no pickle of tensors alone."""


def load_tensors(path: Path) -> Any:
    """Tensors in plain containers, as torch.save wrote them. Raises PickleRefused for all else; nothing of it runs.

    A file that cannot be read is an OSError.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < FIRST_SAFE:
        raise PickleRefused(f"{path}: got torch {torch.__version__}, wanted 2.6 or later, whose loader is safe")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise  # there is no such file, or it cannot be read
    except Exception as error:  # a torn or hostile file raises nearly anything
        raise PickleRefused(
            f"{path}: damaged, or more than tensors, so refused, and nothing of it was run; wanted what torch.save "
            "writes of a state_dict"
        ) from error
