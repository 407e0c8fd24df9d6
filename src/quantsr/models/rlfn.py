"""RLFN: residual local feature network, here as a teacher.

Paper: Kong et al., CVPRW 2022 (arXiv 2205.07514), winner of the NTIRE 2022 efficient SR challenge. Names of layers are
those of the authors' x4 checkpoint (46 features, 4 blocks, attention width 16), so that it loads as it is.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Enhanced spatial attention: x times a sigmoid mask seen from a 1/6-size view. (N, C, H, W), H and W >= 15."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv_f = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.conv4 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)
        coarse = self.conv3(functional.max_pool2d(self.conv2(narrow), 7, stride=3))
        coarse = functional.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(coarse + self.conv_f(narrow)))


class LocalFeatureBlock(nn.Module):
    """Three convolutions with LeakyReLU, a shortcut, a 1x1 convolution, attention."""

    def __init__(self, channels: int, inner: int, width: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(channels, inner, 3, padding=1)
        self.c2_r = nn.Conv2d(inner, inner, 3, padding=1)
        self.c3_r = nn.Conv2d(inner, channels, 3, padding=1)
        self.c5 = nn.Conv2d(channels, channels, 1)
        self.esa = Attention(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            out = functional.leaky_relu(conv(out), 0.05)
        return self.esa(self.c5(out + x))


class RLFN(nn.Module):
    """LR -> SR, x4: (N, 3, H, W) -> (N, 3, 4H, 4W), RGB in [0, 1], not clamped; H and W at least 15.

    The checkpoint works on 0..255; the scaling happens here. Under autocast the blocks alone take part: kernels of the
    ends, rounded to bfloat16, would make the image brighter, by 0.2 of 255 levels.
    """

    def __init__(self, *, upscale: int = 4, channels: int = 46, inner: int = 48, width: int = 16) -> None:
        super().__init__()
        self.upscale = upscale
        self.fea_conv = nn.Conv2d(3, channels, 3, padding=1)
        self.B1, self.B2, self.B3, self.B4 = (LocalFeatureBlock(channels, inner, width) for _ in range(4))
        self.LR_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(channels, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )  # fmt: skip

    @property
    def trunk(self) -> nn.Module:
        """The module whose output is the trunk's."""
        return self.LR_conv

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            head = self.fea_conv(x.float() * 255)
        features = self.B4(self.B3(self.B2(self.B1(head))))
        with torch.autocast(x.device.type, enabled=False):
            return self.upsampler(self.LR_conv(features.float()) + head) / 255
