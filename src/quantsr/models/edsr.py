"""The convolutional backbone of QuantSR-C: the shape of EDSR-baseline.

Papers: EDSR (Lim et al., CVPRW 2017, arXiv 1707.02921); QuantSR (Qin et al., NeurIPS 2023).
Differs from EDSR by a learnable gain on each block's shortcut, by `depth`, and by the optional direct upsampler.
It knows nothing of quantization: layers are swapped from outside.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantsr.models.blocks import UPSAMPLERS, ResidualBlock
from quantsr.models.depth import Depth, kept_blocks

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in EDSR


class EDSR(nn.Module):
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
        if not all(0 <= count <= blocks for count in (half, quarter)):
            raise ValueError(f"got {half} blocks at half and {quarter} at quarter depth, wanted 0 to {blocks}")
        self.upscale, self.channels, self.upsampler_kind = upscale, channels, upsampler
        self.depth_counts = {"half": half, "quarter": quarter}
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = UPSAMPLERS[upsampler](channels, upscale)
        self.set_ranking(range(blocks) if ranking is None else ranking)

    def set_ranking(self, ranking: Sequence[int]) -> None:
        """Sets the order in which blocks are kept. Raises ValueError unless it is a permutation of all blocks."""
        if sorted(ranking) != list(range(len(self.body))):
            raise ValueError(f"got ranking {list(ranking)}, wanted each of 0..{len(self.body) - 1} once")
        self.ranking = tuple(int(block) for block in ranking)

    def kept(self, depth: Depth) -> tuple[int, ...]:
        """The blocks that run at a depth, ascending; see `models.depth.kept_blocks`."""
        return kept_blocks(depth, self.ranking, self.depth_counts)

    @property
    def trunk(self) -> nn.Module:
        """The module whose output is the trunk's: what distillation of features compares."""
        return self.after_body

    def forward(self, x: Tensor, depth: Depth = "full") -> Tensor:
        """depth: "full", "half", "quarter", a count of blocks, or block indices; see `models.depth`."""
        kept = self.kept(depth)
        head = self.head(x - self.mean)  # (N, C, H, W)
        features = head
        for index, block in enumerate(self.body):
            features = block(features) if index in kept else block.skip(features)
        features = self.after_body(features) + head
        return self.upsampler(features) + self.mean  # (N, 3, H*s, W*s)
