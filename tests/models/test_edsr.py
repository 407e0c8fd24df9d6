from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from quantsr.models.blocks import ResidualBlock
from quantsr.models.edsr import EDSR

# Weights without biases in thousands, of the network of the paper.
WEIGHTS = {
    (2, 8): 778, (2, 16): 1367, (2, 32): 2547,
    (3, 8): 962, (3, 16): 1552, (3, 32): 2731,
    (4, 8): 925, (4, 16): 1515, (4, 32): 2695,
}  # fmt: skip
EDSR_BASELINE = {2: 1_369_859, 3: 1_554_499, 4: 1_517_571}  # all parameters of EDSR's authors, 16 blocks


def tiny(**settings: object) -> EDSR:
    torch.manual_seed(0)
    return EDSR(**({"upscale": 2, "channels": 8, "blocks": 4} | settings)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("upscale,blocks", WEIGHTS)
def test_the_papers_network_has_the_papers_size(upscale: int, blocks: int) -> None:
    network = EDSR(upscale=upscale, blocks=blocks, upsampler="paper")
    weights = sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))
    assert round(weights / 1000) == WEIGHTS[upscale, blocks]


@pytest.mark.parametrize("upscale", EDSR_BASELINE)
def test_the_network_is_edsr_baseline_with_gains(upscale: int) -> None:
    network = EDSR(upscale=upscale, upsampler="paper")
    assert sum(p.numel() for p in network.parameters()) == EDSR_BASELINE[upscale] + 16


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (8, 12)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("upsampler", ["direct", "paper"])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_any_size_goes_in(upscale: int, upsampler: str, size: tuple[int, int]) -> None:
    network = EDSR(upscale=upscale, channels=8, blocks=2, upsampler=upsampler)
    assert network(torch.rand(2, 3, *size)).shape == (2, 3, size[0] * upscale, size[1] * upscale)


@pytest.mark.parametrize(
    "depth,kept",
    [
        ("full", range(16)), ("half", range(0, 16, 2)), ("quarter", range(0, 16, 4)),
        (9, [0, 2, 4, 6, 8, 10, 12, 14, 15]), (1, [0]), ([3, 1], [1, 3]),
    ],
    ids=str,
)  # fmt: skip
def test_exactly_the_kept_blocks_run(depth: str | int | list[int], kept: Sequence[int]) -> None:
    ranking = [0, 4, 8, 12, 2, 6, 10, 14, 15, 13, 11, 9, 7, 5, 3, 1]
    assert _ran(tiny(blocks=16, ranking=ranking), depth) == list(kept)


@pytest.mark.parametrize("depth,count", [("full", 32), ("half", 16), ("quarter", 8), (17, 17), (9, 9)])
def test_thirty_two_blocks_can_run_in_every_published_number(depth: str | int, count: int) -> None:
    assert len(_ran(tiny(blocks=32), depth)) == count


def _ran(network: EDSR, depth: str | int | list[int]) -> list[int]:
    """Indices of the blocks whose convolutions both ran."""
    ran: dict[str, list[int]] = {"conv1": [], "conv2": []}
    for index, block in enumerate(network.body):
        for name, seen in ran.items():
            block.get_submodule(name).register_forward_hook(lambda *_, seen=seen, index=index: seen.append(index))
    network(torch.rand(1, 3, 4, 4), depth=depth)
    assert ran["conv1"] == ran["conv2"]
    return ran["conv1"]


def test_a_block_adds_its_body_to_the_scaled_input() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(8), torch.randn(1, 8, 5, 6)
    block.gain.data.fill_(0.7)
    body = nn.Sequential(block.conv1, nn.ReLU(), block.conv2)(x)
    assert torch.equal(block(x), 0.7 * x + body)


def test_a_skipped_block_still_multiplies_by_its_gain() -> None:
    network = tiny()
    gains = [0.5, 2.0, 3.0, 0.25]
    for block, gain in zip(network.body, gains, strict=True):
        block.gain.data.fill_(gain)
    seen: list[Tensor] = []
    network.after_body.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.rand(1, 3, 6, 6)
    network(x, depth=[2])
    head = network.head(x - network.mean)
    torch.testing.assert_close(seen[0], 0.25 * network.body[2](0.5 * 2.0 * head))


def test_named_depths_may_keep_any_number_of_blocks() -> None:
    network = tiny(blocks=32, half=17, quarter=9, ranking=range(31, -1, -1))
    assert _ran(network, "half") == list(range(15, 32))
    assert _ran(network, "quarter") == list(range(23, 32))
    assert len(_ran(network, "full")) == 32
    with pytest.raises(ValueError, match="got 6 blocks at quarter depth, wanted at most the 4 of half depth"):
        tiny(blocks=8, quarter=6)
    with pytest.raises(ValueError, match="got 33 blocks at half and 0 at quarter depth, wanted 0 to 32"):
        tiny(blocks=32, half=33)


def test_the_whole_network_by_hand() -> None:
    network, x = tiny(blocks=1), torch.rand(1, 3, 5, 7)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    head = network.head(x - mean)
    wanted = network.upsampler(network.after_body(network.body[0](head)) + head) + mean
    torch.testing.assert_close(network(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 5}, {"upsampler": "bilinear"},
        {"ranking": [0, 1, 2]}, {"ranking": [0, 1, 2, 2]}, {"ranking": [1, 2, 3, 4]},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got .*, wanted"):
        tiny(**settings)


def test_the_state_holds_no_constants() -> None:
    assert "mean" not in tiny().state_dict()
