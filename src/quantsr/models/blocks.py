"""Building blocks shared by the backbones."""

import torch
from torch import Tensor, nn

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in EDSR


class ResidualBlock(nn.Module):
    """y = gain * x + conv2(relu(conv1(x))), shape (N, C, H, W) throughout; skipped: y = gain * x.

    EDSR's block (Lim et al., CVPRW 2017; no batch norm) with QuantSR's learnable scalar gain on the shortcut.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x + self.conv2(torch.relu(self.conv1(x)))

    def last(self) -> nn.Conv2d:
        """The convolution whose output joins the shortcut."""
        return self.conv2


class Product(nn.Module):
    """a @ b, a module so that it can be swapped: (N, heads, I, K), (N, heads, K, J) -> (N, heads, I, J)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, a: Tensor, b: Tensor, hidden: Tensor | None = None) -> Tensor:
        """hidden: where a is 0 because a pixel does not see another; bool (M, I, K), repeated N / M times."""
        return a @ b


def paper_upsampler(channels: int, upscale: int) -> nn.Sequential:
    """EDSR's: conv + PixelShuffle once (x2, x3) or twice (x4), then a conv to RGB. Linear as a whole."""
    stages = {2: (2,), 3: (3,), 4: (2, 2)}[upscale]
    layers: list[nn.Module] = []
    for factor in stages:
        layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))


def direct_upsampler(channels: int, upscale: int) -> nn.Sequential:
    """One conv to 3 * upscale^2 channels, then PixelShuffle: about a tenth of the paper's multiply-adds."""
    return nn.Sequential(nn.Conv2d(channels, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))


UPSAMPLERS = {"paper": paper_upsampler, "direct": direct_upsampler}
