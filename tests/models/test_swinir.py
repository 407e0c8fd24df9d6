import math

import pytest
import torch
from torch import Tensor, nn

from quantsr.models.swinir import SwinIR, WindowAttention, hidden_pairs, mirrored

PUBLISHED = {2: 878_000, 3: 886_000, 4: 897_000}  # SwinIR-light's authors leave out the position tables
EXACT = {2: 910_152, 3: 918_267, 4: 929_628}


def tiny(**settings: object) -> SwinIR:
    torch.manual_seed(0)
    small = {"upscale": 2, "channels": 12, "blocks": 4, "layers": 2, "heads": 3, "window": 4}
    return SwinIR(**(small | settings)).eval()  # type: ignore[arg-type]


def count(network: nn.Module, without: str) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith(without))


@pytest.mark.parametrize("upscale", EXACT)
def test_it_has_the_published_size(upscale: int) -> None:
    network = SwinIR(upscale=upscale)
    gains = 4
    assert count(network, "gain") == EXACT[upscale]
    assert round(count(network, "position_bias") - gains, -3) == PUBLISHED[upscale]


def slow_attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """By loops: windows, heads, pixels. Regions as in Swin Transformer: three bands each way of the shifted image."""
    h, w, c = x.shape
    side, shift, depth = layer.window, layer.shift, c // layer.heads

    def band(at: int, size: int) -> int:
        return 0 if at < size - side else 1 if at < size - shift else 2

    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    mixed = torch.zeros(h, w, c)
    for top in range(0, h, side):
        for left in range(0, w, side):
            pixels = [(top + i, left + j) for i in range(side) for j in range(side)]  # of the shifted image
            for head in range(layer.heads):
                part = slice(head * depth, (head + 1) * depth)
                for y, z in pixels:
                    q = qkv[(y + shift) % h, (z + shift) % w, part] / math.sqrt(depth)
                    logits, values = [], []
                    for ky, kz in pixels:
                        if shift and (band(y, h), band(z, w)) != (band(ky, h), band(kz, w)):
                            continue
                        at = qkv[(ky + shift) % h, (kz + shift) % w]
                        row = (y - ky + side - 1) * (2 * side - 1) + z - kz + side - 1
                        logits.append(q @ at[c:][part] + layer.position_bias[row, head])
                        values.append(at[2 * c :][part])
                    weights = torch.stack(logits).softmax(0)
                    mixed[(y + shift) % h, (z + shift) % w, part] = weights @ torch.stack(values)
    return mixed @ layer.projection.weight.T + layer.projection.bias


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(4, 4), (4, 8), (12, 8)], ids=str)
def test_attention_equals_loops(shift: int, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    layer, x = WindowAttention(6, 2, 4, shift), torch.randn(2, *size, 6)
    for parameter in layer.parameters():
        parameter.normal_()
    hidden = hidden_pairs(*size, 4, x.device) if shift else None
    wanted = torch.stack([slow_attention(layer, image) for image in x])
    torch.testing.assert_close(layer(x, hidden), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_moving_the_image_by_a_window_moves_the_result() -> None:
    network, side = tiny(blocks=1), 4
    reach = 3 * side  # how far what borders change can get
    image = torch.rand(1, 3, 2 * reach + 3 * side, 2 * reach + 4 * side)
    inner = (..., slice(2 * reach, -2 * reach), slice(2 * reach, -2 * reach))

    def moved(y: int, x: int) -> tuple[Tensor, Tensor]:
        return network(image[:, :, y:, x:])[inner], network(image)[:, :, 2 * y :, 2 * x :][inner]

    torch.testing.assert_close(*moved(side, 2 * side))
    by_a_pixel, shifted = moved(1, 1)
    assert float((by_a_pixel - shifted).abs().max()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 5), (8, 8), (9, 17)], ids=str)
def test_any_size_goes_in(size: tuple[int, int], upscale: int) -> None:
    result = tiny(upscale=upscale, blocks=1, window=8)(torch.rand(2, 3, *size))
    assert result.shape == (2, 3, size[0] * upscale, size[1] * upscale)
    assert bool(torch.isfinite(result).all())


def test_the_image_goes_on_as_in_a_mirror() -> None:
    x = torch.rand(2, 3, 9, 13)
    assert torch.equal(mirrored(x, 8), nn.functional.pad(x, (0, 3, 0, 7), "reflect"))
    assert mirrored(x[..., :8, :8], 8).shape == (2, 3, 8, 8)
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    assert mirrored(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert mirrored(row, 8)[0, 0, 7].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]


@torch.no_grad()
def test_the_whole_network_by_hand() -> None:
    network, x = tiny(blocks=1), torch.rand(1, 3, 8, 12)
    head = network.head(x - network.mean)
    group = network.body[0]
    group.gain.fill_(0.7)
    features = inside = network.norm_in(head.permute(0, 2, 3, 1))
    for layer in group.layers:
        features = features + layer.attention(
            layer.norm1(features), hidden_pairs(8, 12, 4, x.device) if layer.attention.shift else None
        )
        expanded = nn.functional.gelu(layer.expand(layer.norm2(features)))
        features = features + layer.contract(expanded)
    assert [layer.attention.shift for layer in group.layers] == [0, 2]
    body = 0.7 * inside.permute(0, 3, 1, 2) + group.conv(features.permute(0, 3, 1, 2))
    body = network.after_body(network.norm_out(body.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    torch.testing.assert_close(network(x), network.upsampler(body + head) + network.mean)


@torch.no_grad()
@pytest.mark.parametrize(
    "depth,kept", [("full", range(8)), ("half", [0, 2, 4, 6]), ("quarter", [0, 4]), (3, [0, 2, 4]), ([5], [5])], ids=str
)
def test_exactly_the_kept_groups_run(depth: str | int | list[int], kept: list[int]) -> None:
    network = tiny(blocks=8, ranking=[0, 4, 2, 6, 1, 3, 5, 7])
    ran: list[int] = []
    for index, group in enumerate(network.body):
        group.conv.register_forward_hook(lambda *_, index=index: ran.append(index))
    network(torch.rand(1, 3, 4, 4), depth=depth)
    assert ran == list(kept)


@torch.no_grad()
def test_a_skipped_group_still_multiplies_by_its_gain() -> None:
    network = tiny()
    for group, gain in zip(network.body, [0.5, 2.0, 3.0, 0.25], strict=True):
        group.gain.fill_(gain)
    x = torch.rand(2, 12, 8, 8)
    torch.testing.assert_close(network.run_body(x, [2]), 0.25 * network.body[2](0.5 * 2.0 * x))


def test_gradients_reach_everything() -> None:
    network = tiny()
    network(torch.rand(2, 3, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_low_precision_stays_close() -> None:
    network, x = tiny(), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = network(x)
        assert bool(torch.isfinite(low).all())
    torch.testing.assert_close(low.float(), network(x).detach(), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "settings",
    [{"upscale": 5}, {"channels": 13}, {"window": 0}, {"ranking": [0, 1, 2]}, {"half": 5}],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got .*, wanted"):
        tiny(**settings)


def test_the_state_holds_no_constants() -> None:
    assert not {"mean", "pairs"} & {name.rpartition(".")[2] for name in tiny().state_dict()}


@torch.no_grad()
def test_linear_layers_see_the_pixels_of_an_image_together() -> None:
    network, seen = SwinIR(upscale=2, channels=8, blocks=1, layers=2, heads=2, window=4), []
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        linear.register_forward_pre_hook(lambda _, args: seen.append((args[0].shape[0], args[0][0].numel())))
    network(torch.rand(3, 3, 8, 12))
    assert len(seen) == 8
    assert {images for images, _ in seen} == {3}  # some quantizers measure image by image
    assert {values for _, values in seen} == {8 * 12 * 8, 8 * 12 * 16}
