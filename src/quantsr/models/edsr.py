"""The convolutional backbone of QuantSR-C: the shape of EDSR-baseline.

Papers: EDSR (Lim et al., CVPRW 2017, arXiv 1707.02921); QuantSR (Qin et al., NeurIPS 2023).
Differs from EDSR by a learnable gain on each block's shortcut, by `depth`, and by the optional direct upsampler.
It knows nothing of quantization: layers are swapped from outside.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantsr.models.blocks import RGB_MEAN, UPSAMPLERS, ResidualBlock
from quantsr.models.depth import Depth, DepthDynamic


class EDSR(DepthDynamic):
    """LR image -> SR image, any size: (N, 3, H, W) -> (N, 3, H*upscale, W*upscale), RGB in [0, 1], not clamped.

    upscale: 2, 3 or 4. channels: width. blocks: residual blocks at full depth.
    upsampler: "paper" (conv + PixelShuffle stages, last conv) or "direct" (one conv + PixelShuffle).
    half, quarter: blocks kept at these depths, such as 17 and 9 of 32; 0: exactly a half and a quarter.
    ranking: blocks in the order in which they are kept when depth shrinks; default 0, 1, 2, ...
    """

    def __init__(
        self,
        *,
        upscale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        upsampler: str = "direct",
        half: int = 0,
        quarter: int = 0,
        ranking: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f"got upscale {upscale}, wanted 2, 3 or 4")
        if upsampler not in UPSAMPLERS:
            raise ValueError(f"got upsampler {upsampler!r}, wanted one of {', '.join(UPSAMPLERS)}")
        self.upscale, self.channels, self.upsampler_kind = upscale, channels, upsampler
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.set_body(nn.ModuleList(ResidualBlock(channels) for _ in range(blocks)), half, quarter, ranking)
        self.after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = UPSAMPLERS[upsampler](channels, upscale)

    @property
    def trunk(self) -> nn.Module:
        """The module whose output is the trunk's: what distillation of features compares."""
        return self.after_body

    def forward(self, x: Tensor, depth: Depth = "full") -> Tensor:
        """depth: "full", "half", "quarter", a count of blocks, or block indices; see `models.depth`."""
        head = self.head(x - self.mean)  # (N, C, H, W)
        features = self.after_body(self.run_body(head, depth)) + head
        return self.upsampler(features) + self.mean  # (N, 3, H*s, W*s)
