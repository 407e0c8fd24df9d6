"""Changes after which a pair is still a pair: they do to HR what they do to LR, and the bicubic between keeps them.

Of a photograph they make others that the network has not seen.
"""

from collections.abc import Callable

import numpy as np

from quantsr.images import UInt8

Change = Callable[[UInt8], UInt8]  # (H, W, 3) -> (H, W, 3), or (W, H, 3) where turned


def _turn(rng: np.random.Generator) -> Change:
    """One of the eight flips and rotations."""
    turn = int(rng.integers(8))

    def change(patch: UInt8) -> UInt8:
        turned = np.rot90(patch, turn % 4)
        return turned[:, ::-1] if turn >= 4 else turned

    return change


def _shuffle(rng: np.random.Generator) -> Change:
    """One of the six orders of the channels."""
    order = rng.permutation(3)
    return lambda patch: patch[..., order]


CHANGES: dict[str, Callable[[np.random.Generator], Change]] = {"turns": _turn, "channels": _shuffle}
