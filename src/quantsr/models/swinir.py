"""The transformer backbone of QuantSR-T: SwinIR-light with groups that can be skipped.

Papers: SwinIR (Liang et al., ICCVW 2021, arXiv 2108.10257), after Swin Transformer (Liu et al., ICCV 2021, arXiv
2103.14030); QuantSR (Qin et al., NeurIPS 2023), which skips whole groups, as its released code does.
Differs from SwinIR by a learnable gain on each group's shortcut, by `depth`, by pairs of pixels that do not see each
other being left out where SwinIR adds -100 to their logit, and by no layers being dropped at random in training.
It knows nothing of quantization: layers and products are swapped from outside.

Inside groups features are (N, H, W, C): a linear layer works on the last axis, pixel by pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.models.blocks import RGB_MEAN, Product, direct_upsampler
from quantsr.models.depth import Depth, DepthDynamic


class WindowAttention(nn.Module):
    """Self-attention of the pixels of a window among themselves, (N, H, W, C) throughout; H, W multiples of `window`.

    Windows lie on a grid that begins `shift` pixels from the top left; the image wraps around, but pixels on different
    sides of its border do not see each other. For each head, with p and r pixels of a window:

        out[p] = sum_r softmax_r(q[p] . k[r] / sqrt(C / heads) + position_bias[p - r]) * v[r]
    """

    pairs: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.scores, self.mixture = Product(heads), Product(heads)
        self.projection = nn.Linear(channels, channels)
        self.register_buffer("pairs", pair_index(window), persistent=False)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """hidden: `hidden_pairs` of x where windows are shifted, else None."""
        n, h, w, c = x.shape
        shifted = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        qkv = self.qkv(to_windows(shifted, self.window).view(n, h * w, c))  # (N, pixels window by window, 3C)
        qkv = qkv.view(-1, self.window**2, 3, self.heads, c // self.heads)  # (windows, T, 3, heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (windows, heads, T, D)
        logits = self.scores(q * (c // self.heads) ** -0.5, k.transpose(-2, -1))
        bias = functional.embedding(self.pairs, self.position_bias.to(logits.dtype)).permute(2, 0, 1)  # (heads, T, T)
        if hidden is not None:
            bias = torch.where(hidden[:, None], -torch.inf, bias)  # (windows of an image, heads, T, T)
        logits = (logits.unflatten(0, (n, -1)) + bias).flatten(0, 1)
        mixed = self.mixture(logits.softmax(-1), v, hidden)  # (windows, heads, T, D)
        mixed = self.projection(mixed.transpose(1, 2).reshape(n, h * w, c))  # window by window still
        mixed = from_windows(mixed, self.window, h, w)  # (N, H, W, C)
        return torch.roll(mixed, (self.shift, self.shift), (1, 2)) if self.shift else mixed


class SwinLayer(nn.Module):
    """x + attention(norm(x)), then the same with two linear layers and GELU; (N, H, W, C) throughout."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, mlp_ratio * channels)
        self.contract = nn.Linear(mlp_ratio * channels, channels)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), hidden)
        return x + self.contract(functional.gelu(self.expand(self.norm2(x))))


class SwinGroup(nn.Module):
    """y = gain * x + conv(layers(x)), shape (N, C, H, W) throughout; skipped: y = gain * x.

    SwinIR's residual Swin Transformer block with QuantSR's learnable scalar gain on the shortcut. Every second layer
    has its windows shifted by half a window.
    """

    def __init__(self, channels: int, layers: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window = window
        shifts = (index % 2 * (window // 2) for index in range(layers))
        self.layers = nn.ModuleList(SwinLayer(channels, heads, window, shift, mlp_ratio) for shift in shifts)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = hidden_pairs(x.shape[2], x.shape[3], self.window, x.device)
        features = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        for layer in self.layers:
            features = layer(features, hidden if layer.attention.shift else None)
        return self.gain * x + self.conv(features.permute(0, 3, 1, 2))

    def last(self) -> nn.Conv2d:
        """The convolution whose output joins the shortcut."""
        return self.conv


class SwinIR(DepthDynamic):
    """LR image -> SR image, any size: (N, 3, H, W) -> (N, 3, H*upscale, W*upscale), RGB in [0, 1], not clamped.

    Inside, the image is continued to the right and below to multiples of the window, mirrored at its last pixel, as
    often as it takes if it is smaller than that; the result is cropped.
    upscale: 2, 3 or 4. channels: width, a multiple of heads. blocks: groups at full depth: 4 in SwinIR-light, 8 in
    QuantSR-T, which then runs 4 and 2. layers: Swin layers of a group. window: pixels on a side of a window.
    mlp_ratio: width between the two linear layers of a layer, relative to channels.
    half, quarter, ranking: as in `EDSR`, of groups.
    """

    def __init__(
        self,
        *,
        upscale: int = 4,
        channels: int = 60,
        blocks: int = 4,
        layers: int = 6,
        heads: int = 6,
        window: int = 8,
        mlp_ratio: int = 2,
        half: int = 0,
        quarter: int = 0,
        ranking: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f"got upscale {upscale}, wanted 2, 3 or 4")
        if min(heads, layers, window, mlp_ratio) < 1 or channels % heads:
            got = f"{heads} heads of {channels} channels, {layers} layers, window {window}, mlp_ratio {mlp_ratio}"
            raise ValueError(f"got {got}, wanted 1 or more of each and a multiple of heads as channels")
        self.upscale, self.channels, self.upsampler_kind, self.window = upscale, channels, "direct", window
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.norm_in = nn.LayerNorm(channels)
        groups = nn.ModuleList(SwinGroup(channels, layers, heads, window, mlp_ratio) for _ in range(blocks))
        self.set_body(groups, half, quarter, ranking)
        self.norm_out = nn.LayerNorm(channels)
        self.after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = direct_upsampler(channels, upscale)
        self.apply(_start)

    @property
    def trunk(self) -> nn.Module:
        """The module whose output is the trunk's: what distillation of features compares."""
        return self.after_body

    def forward(self, x: Tensor, depth: Depth = "full") -> Tensor:
        """depth: "full", "half", "quarter", a count of groups, or their indices; see `models.depth`."""
        h, w = (side * self.upscale for side in x.shape[2:])
        head = self.head(mirrored(x, self.window) - self.mean)  # (N, C, H', W')
        features = self.run_body(_on_pixels(self.norm_in, head), depth)
        features = self.after_body(_on_pixels(self.norm_out, features)) + head
        return self.upsampler(features)[:, :, :h, :w] + self.mean  # (N, 3, H*s, W*s)


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) continued to the right and below to multiples, mirrored at the last pixel without repeating it."""
    for axis in (2, 3):
        size = x.shape[axis]
        if size % multiple:
            period = max(2 * (size - 1), 1)  # of an image mirrored again and again
            index = torch.arange(size + -size % multiple, device=x.device) % period
            x = x.index_select(axis, torch.minimum(index, period - index))
    return x


def to_windows(x: Tensor, side: int) -> Tensor:
    """(N, H, W, C) -> (N * windows, side * side, C), row by row."""
    n, h, w, c = x.shape
    return x.view(n, h // side, side, w // side, side, c).transpose(2, 3).reshape(-1, side * side, c)


def from_windows(x: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`, for images of height x width."""
    c = x.shape[2]
    return x.view(-1, height // side, width // side, side, side, c).transpose(2, 3).reshape(-1, height, width, c)


def pair_index(side: int) -> Tensor:
    """Row of the table of position biases for each pair of pixels of a window: (T, T), T = side * side.

    Row (dy + side - 1) * (2 * side - 1) + dx + side - 1 belongs to a pixel dy below and dx right of the one it sees.
    """
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    dy, dx = y[:, None] - y + side - 1, x[:, None] - x + side - 1
    return dy * (2 * side - 1) + dx


def hidden_pairs(height: int, width: int, side: int, device: torch.device) -> Tensor:
    """Which pairs of pixels of each shifted window lie on different sides of the border: bool (windows, T, T)."""
    beyond = [torch.arange(size, device=device) >= size - side // 2 for size in (height, width)]
    part = 2 * beyond[0][:, None] + beyond[1].long()  # (H, W)
    part = to_windows(part[None, :, :, None], side)[:, :, 0]  # (windows, T)
    return part[:, :, None] != part[:, None, :]


def _on_pixels(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer that works on the last axis, on (N, C, H, W)."""
    out: Tensor = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out


def _start(module: nn.Module) -> None:
    """SwinIR's first values; convolutions keep those of torch, norms 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.position_bias, std=0.02)
