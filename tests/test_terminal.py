import pytest

from quantsr.terminal import shown_together


@pytest.mark.parametrize(
    "names,shown",
    [
        ([], ""),
        (["head"], "head"),
        (["body.3.conv1"], "body.3.conv1"),
        ([f"body.{i}.conv{j}" for i in range(12) for j in (1, 2)], "body.0-11.conv1, body.0-11.conv2"),
        ([f"body.{i}.layers.{j}.expand" for i in (4, 5) for j in (0, 1)], "body.4-5.layers.0-1.expand"),
        (["body.0.conv", "body.2.conv", "tail"], "body.0.conv, body.2.conv, tail"),
        ([f"body.{i}.layers.{i}.expand" for i in (0, 1)], "body.0.layers.0.expand, body.1.layers.1.expand"),
    ],
    ids=["none", "one", "an index", "a range", "two ranges", "a gap", "not every pair"],
)
def test_names_are_shown_together(names: list[str], shown: str) -> None:
    assert shown_together(names) == shown
