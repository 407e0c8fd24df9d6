"""The networks of others as their papers and checkpoints have them, plainly, with their names and random weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)


class Block(nn.Module):
    """A residual block under BasicSR's names."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(x))) * self.res_scale


def stages(channels: int, upscale: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for factor in {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}[upscale]:
        layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    return layers


class BasicSR(nn.Module):
    """EDSR of BasicSR."""

    def __init__(self, channels=8, blocks=3, upscale=4, img_range=255.0, res_scale=1.0) -> None:
        super().__init__()
        self.img_range = img_range
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels, res_scale) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(*stages(channels, upscale))
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first((x - MEAN) * self.img_range)
        x = self.conv_last(self.upsample(self.conv_after_body(self.body(x)) + x))
        return x / self.img_range + MEAN


class Inner(nn.Module):
    """A residual block under the names of EDSR-PyTorch."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.body = nn.Sequential(convs[0], nn.ReLU(), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) * self.res_scale


def mean_shift(sign: int, mean: Tensor = MEAN) -> nn.Conv2d:
    layer = nn.Conv2d(3, 3, 1)
    layer.weight.data = torch.eye(3).view(3, 3, 1, 1)
    layer.bias.data = sign * 255 * mean.flatten()
    return layer


class Authors(nn.Module):
    """EDSR of EDSR-PyTorch: on pixels 0 to 255 inside, 0 to 1 outside here."""

    def __init__(self, channels=8, blocks=3, upscale=4, res_scale=1.0, mean: Tensor = MEAN) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = mean_shift(-1, mean), mean_shift(1, mean)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        after = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(Inner(channels, res_scale) for _ in range(blocks)), after)
        up = nn.Sequential(*stages(channels, upscale))
        self.tail = nn.Sequential(up, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x * 255))
        return self.add_mean(self.tail(self.body(x) + x)) / 255


class SRResNet(nn.Module):
    """MSRResNet of BasicSR, by its layers alone: it is to be refused."""

    def __init__(self, channels=8, blocks=2) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels, 1.0) for _ in range(blocks)))
        self.upconv1, self.upconv2 = (nn.Conv2d(channels, 4 * channels, 3, padding=1) for _ in range(2))
        self.conv_hr, self.conv_last = (nn.Conv2d(channels, n, 3, padding=1) for n in (channels, 3))


class Attention(nn.Module):
    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.5)
        index = torch.empty(window**2, window**2, dtype=torch.long)
        for p in range(window**2):
            for r in range(window**2):
                dy, dx = p // window - r // window, p % window - r % window
                index[p, r] = (dy + window - 1) * (2 * window - 1) + dx + window - 1
        self.register_buffer("relative_position_index", index)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (images * windows, T, C); mask: (windows, T, T) or None."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        logits = logits + table.view(t, t, self.heads).permute(2, 0, 1)
        if mask is not None:
            logits = (logits.view(-1, len(mask), self.heads, t, t) + mask[:, None]).view(b, self.heads, t, t)
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


class Mlp(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Layer(nn.Module):
    """A Swin layer; the mask belongs to the size of training, as there, and is made anew for another."""

    def __init__(self, channels: int, window: int, heads: int, shift: int, ratio: int, size: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = Attention(channels, window, heads), Mlp(channels, ratio * channels)
        self.register_buffer("attn_mask", self.mask(size, size) if shift else None)

    def mask(self, h: int, w: int) -> Tensor:
        parts = torch.zeros(1, h, w, 1)
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
            parts[:, rows, columns] = number
        parts = self.split(parts).squeeze(-1)
        return torch.where(parts[:, None, :] != parts[:, :, None], -100.0, 0.0)

    def split(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = x.view(n, h // self.window, self.window, w // self.window, self.window, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.window**2, c)

    def join(self, x: Tensor, h: int, w: int) -> Tensor:
        x = x.view(-1, h // self.window, w // self.window, self.window, self.window, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C)."""
        _, h, w, _ = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = self.join(self.attn(self.split(y), self.mask(h, w) if self.shift else None), h, w)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Group(nn.Module):
    def __init__(self, channels: int, depth: int, window: int, heads: int, ratio: int, size: int) -> None:
        super().__init__()
        layers = (Layer(channels, window, heads, i % 2 * (window // 2), ratio, size) for i in range(depth))
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(layers)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        for layer in self.residual_group.blocks:
            y = layer(y)
        return x + self.conv(y.permute(0, 3, 1, 2))


class SwinIR(nn.Module):
    """SwinIR-light: 'pixelshuffledirect'."""

    def __init__(self, channels=12, groups=2, depth=2, window=4, heads=3, ratio=2, upscale=2, img_range=1.0) -> None:
        super().__init__()
        self.window, self.upscale, self.img_range = window, upscale, img_range
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(channels)
        self.layers = nn.ModuleList(Group(channels, depth, window, heads, ratio, 4 * window) for _ in range(groups))
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(channels, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))
        for parameter in self.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = functional.pad(x, (0, -w % self.window, 0, -h % self.window), mode="reflect")
        x = self.conv_first((x - MEAN) * self.img_range)
        y = self.patch_embed.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for group in self.layers:
            y = group(y)
        y = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.upsample(self.conv_after_body(y) + x) / self.img_range + MEAN
        return x[:, :, : h * self.upscale, : w * self.upscale]
