"""Depth-dynamic execution (DQA, QuantSR, NeurIPS 2023): one set of weights, several depths.

A ranking lists block indices, most important first; a depth keeps a head of that list. The paper ranks by the learned
shortcut gain: where the gain is large the identity matters more than the body, so the block is skipped first.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

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


class DepthDynamic(nn.Module):
    """What backbones share: `body`, blocks with a `gain` of which some run, a ranking of them, and counts per depth."""

    body: nn.ModuleList
    ranking: tuple[int, ...]
    depth_counts: dict[str, int]

    def set_body(self, body: nn.ModuleList, half: int, quarter: int, ranking: Sequence[int] | None) -> None:
        """Arguments as those of the backbones.

        Raises ValueError for counts above the number of blocks, and for a quarter that is deeper than half.
        """
        if not all(0 <= count <= len(body) for count in (half, quarter)):
            raise ValueError(f"got {half} blocks at half and {quarter} at quarter depth, wanted 0 to {len(body)}")
        self.body, self.depth_counts = body, {"half": half, "quarter": quarter}
        self.set_ranking(range(len(body)) if ranking is None else ranking)
        more, less = len(self.kept("half")), len(self.kept("quarter"))
        if less > more:
            raise ValueError(f"got {less} blocks at quarter depth, wanted at most the {more} of half depth")

    def set_ranking(self, ranking: Sequence[int]) -> None:
        """Sets the order in which blocks are kept. Raises ValueError unless it is a permutation of all blocks."""
        if sorted(ranking) != list(range(len(self.body))):
            raise ValueError(f"got ranking {list(ranking)}, wanted each of 0..{len(self.body) - 1} once")
        self.ranking = tuple(int(block) for block in ranking)

    def kept(self, depth: Depth) -> tuple[int, ...]:
        """The blocks that run at a depth, ascending; see `kept_blocks`."""
        return kept_blocks(depth, self.ranking, self.depth_counts)

    def run_body(self, features: Tensor, depth: Depth) -> Tensor:
        """Features (N, C, H, W) through the blocks kept at a depth."""
        kept = self.kept(depth)
        lacks: Tensor | None = None  # the product of skipped gains, which the features are still to be multiplied by
        for index, block in enumerate(self.body):
            if index not in kept:
                lacks = block.gain if lacks is None else lacks * block.gain
                continue
            if lacks is not None:
                features, lacks = lacks * features, None
            features = block(features)
        return features if lacks is None else lacks * features
