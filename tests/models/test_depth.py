import itertools

import pytest

from quantsr.models.depth import kept_blocks, rank_by

REVERSED = tuple(range(31, -1, -1))


@pytest.mark.parametrize("total,counts", [(32, (32, 16, 8)), (16, (16, 8, 4)), (2, (2, 1, 1)), (1, (1, 1, 1))])
def test_names_keep_a_whole_a_half_and_a_quarter(total: int, counts: tuple[int, int, int]) -> None:
    kept = [kept_blocks(name, range(total)) for name in ("full", "half", "quarter")]
    assert tuple(map(len, kept)) == counts
    assert all(set(small) <= set(large) for large, small in itertools.pairwise(kept))


@pytest.mark.parametrize("count", [17, 9, 1, 32])
def test_a_count_keeps_the_head_of_the_ranking(count: int) -> None:
    assert kept_blocks(count, REVERSED) == tuple(range(32 - count, 32))


def test_explicit_blocks_do_not_ask_the_ranking() -> None:
    assert kept_blocks([5, 0, 2], REVERSED) == (0, 2, 5)
    assert kept_blocks((31,), REVERSED) == (31,)


@pytest.mark.parametrize(
    "depth", ["third", "", 0, -1, 33, [], [0, 0], [32], [-1]], ids=lambda depth: repr(depth)
)  # fmt: skip
def test_an_impossible_depth_is_refused(depth: str | int | list[int]) -> None:
    with pytest.raises(ValueError, match=r"got .*, wanted .*"):
        kept_blocks(depth, REVERSED)


def test_small_gains_come_first_and_ties_keep_the_later_block() -> None:
    assert rank_by([1.2, 0.8, 1.0, 0.8]) == (3, 1, 2, 0)
    assert rank_by([1.0] * 4) == (3, 2, 1, 0)
