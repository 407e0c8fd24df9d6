"""A packed network as a PyTorch module, for other programs. Needs torch, which `import quantsr` alone never loads."""

from pathlib import Path

from torch import Tensor, nn

from quantsr import zoo
from quantsr.packing.lift import lift
from quantsr.packing.program import PackedModel


class Upscaler(nn.Module):
    """LR -> SR: (N, 3, H, W) to (N, 3, scale*H, scale*W), RGB in [0, 1]; the result is not clamped.

    Takes any floating type, computes in the weights' and returns that.

    Low-bit layers are fake-quantized: codes times steps, in float. The module starts in eval mode, on the CPU, in
    float32; `to` and `state_dict` work as in any module. Gradients reach the input, through the rounding by the
    quantizers' own rule, and the parameters; to train, `quantsr train` does more. Values outside [0, 1] are computed,
    but the network has not seen such.
    """

    def __init__(self, packed: PackedModel, depth: str = "full") -> None:
        super().__init__()
        if depth not in packed.programs:
            raise ValueError(f"got depth {depth!r}, wanted one of {', '.join(packed.programs)}")
        self.network = lift(packed)
        self.depth = depth
        self.scale: int = packed.info["upscale"]
        self.eval()

    def forward(self, lr: Tensor) -> Tensor:
        """Raises ValueError for another shape, or integers: divide 8-bit values by 255 first."""
        if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape or not lr.is_floating_point():
            raise ValueError(f"got {lr.dtype} {tuple(lr.shape)}, wanted floating (N, 3, H, W) in [0, 1]")
        sr: Tensor = self.network(lr.to(next(self.parameters()).dtype), depth=self.depth)
        return sr

    def extra_repr(self) -> str:
        return f"scale={self.scale}, depth={self.depth!r}"


def load(name_or_path: str | Path, depth: str = "full") -> Upscaler:
    """A bundled model by name (see `quantsr models`) or a packed file, at one of its depths.

    Against the engine pictures differ by flipped codes, as docs/numerics.md says. Raises UnknownModelError, a
    PackedModelError for a file that is not a sound packed model, and ValueError for a depth that it lacks.
    """
    return Upscaler(zoo.load_packed(name_or_path), depth)
