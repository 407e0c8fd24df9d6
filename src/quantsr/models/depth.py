"""Depth-dynamic execution (DQA, QuantSR, NeurIPS 2023): one set of weights, several depths.

A ranking lists block indices, most important first; a depth keeps a head of that list. The paper ranks by the learned
shortcut gain: where the gain is large the identity matters more than the body, so the block is skipped first.
"""

from collections.abc import Mapping, Sequence

FRACTIONS = {"full": 1, "half": 2, "quarter": 4}

Depth = str | int | Sequence[int]


def rank_by(values: Sequence[float]) -> tuple[int, ...]:
    """Block indices in the order they are kept: smallest value first; ties keep the later block."""
    return tuple(sorted(range(len(values)), key=lambda block: (values[block], -block)))


def kept_blocks(depth: Depth, ranking: Sequence[int], counts: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The block indices that run, ascending.

    depth: "full", "half", "quarter", a number of blocks, or the block indices themselves.
    counts: blocks kept at a named depth, where it is not exactly the half or quarter that the name says; 0 says it is.
    Raises ValueError for an unknown name, a count outside 1..len(ranking), or indices that are not distinct blocks.
    """
    total = len(ranking)
    if isinstance(depth, str):
        if depth not in FRACTIONS:
            raise ValueError(f"got depth {depth!r}, wanted one of {', '.join(FRACTIONS)}, a count or block indices")
        depth = (counts or {}).get(depth, 0) or max(1, total // FRACTIONS[depth])
    if isinstance(depth, int):
        if not 1 <= depth <= total:
            raise ValueError(f"got a depth of {depth} blocks, wanted 1 to {total}")
        return tuple(sorted(ranking[:depth]))
    kept = tuple(sorted(set(depth)))
    if not kept or len(kept) != len(depth) or not all(0 <= block < total for block in kept):
        raise ValueError(f"got blocks {list(depth)}, wanted distinct indices in 0..{total - 1}")
    return kept
