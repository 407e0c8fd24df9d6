"""The interface of all methods: a method gives a quantizer for a layer's weight and one for its input.

A new one is a file with two subclasses of `Quantizer` and a line in `convert.QUANTIZERS`; docs/quantizers.md shows one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantsr.quant.config import NotPackable, QParams, QuantConfig, code_range
from quantsr.quant.observed import Observed

SIGNED_BELOW = -1e-5  # an activation that never goes below this is unsigned


class Quantizer(nn.Module):
    """Quantizer of one tensor: of a weight (O, I, K, K) or, of a linear layer, (O, I); or of an activation (N, C, ...),
    which is (N, C, H, W) of a convolution, (N, C, pixels, 1) of a linear layer, (N, heads, ...) of attention.

    A subclass writes `fake_quant` and, as it needs them, `to_codes`, `set_range` (activations), `init_from` (weights),
    `keep_valid`, `penalty` and `mismatch`. What is learned is a parameter, what is only measured a buffer. An
    activation quantizer must be calibrated before it runs, a weight quantizer initialised by `init_from`.
    """

    temperature: float | None = None  # of the backward staircase, where a method has one
    processes: int = 1  # that share a batch: gradient scales by the number of values count the whole batch
    bias_follows: bool = False  # of the layer that reads the values: it can take back a shift
    means: tuple[Tensor, Tensor] | None = None  # (C,): of what calibration saw, and of what is made of it

    def __init__(self, bits: int) -> None:
        """bits: 2, 3 or 4; ValueError otherwise."""
        super().__init__()
        code_range(bits, True)
        self.bits = bits
        self.signed = True
        self.calibrated = False
        self.observing = False  # collect statistics and pass activations through as they are
        self._observed = Observed()

    # A tensor, so that it travels in safetensors with the rest of the state.
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.calibrated, self.signed], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.calibrated, self.signed = (bool(flag) for flag in state.tolist())

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantized x in float32 (float64 for float64 input), same shape."""
        if self.observing:
            self.observe(x)
            return x
        return self.fake_quant(self._ready(x))

    def fake_quant(self, x: Tensor) -> Tensor:
        """x, float32 or float64, on the levels of the quantizer; its gradient is the method's."""
        raise NotImplementedError

    @torch.no_grad()
    def codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        """Integer codes of x (int8, same shape) and what they stand for. Raises NotPackable where there are none."""
        return self.to_codes(self._ready(x))

    def to_codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        """As `codes`, of x in float32 or float64."""
        raise NotPackable(f"{type(self).__name__} has no static integer codes")

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Collects calibration statistics of an activation batch (N, C, ...)."""
        self._observed.add(x.float())

    @torch.no_grad()
    def finish_calibration(self) -> None:
        """Decides signedness and first values of an activation quantizer from everything observed."""
        if not self._observed.batches:
            raise RuntimeError("calibration saw no batch: run the network on some patches while it observes")
        self.signed = self._observed.low < SIGNED_BELOW
        self.set_range(self._observed)
        self.calibrated = True
        self._observed = Observed()

    def set_range(self, observed: Observed) -> None:
        """First values of an activation quantizer; `signed` is decided already. By default there are none.

        One that sets `means` has the bias of its layer corrected for them.
        """

    @torch.no_grad()
    def init_from(self, weight: Tensor) -> None:
        """First values of a weight quantizer."""
        self.calibrated = True

    @torch.no_grad()
    def restore(self, params: QParams) -> None:
        """The inverse of `codes`: the state with which tensors made of such codes come out as they are."""
        raise NotPackable(f"{type(self).__name__} cannot be restored from a packed network")

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Called after every optimiser step: brings back a learned step or bound that left its domain."""

    def penalty(self) -> Tensor | float:
        """What the method adds to the loss for this quantizer: a scalar."""
        return 0.0

    def mismatch(self) -> Tensor | float:
        """What a step lowers for this quantizer as far as that agrees with lowering the loss: a scalar."""
        return 0.0

    def _ready(self, x: Tensor) -> Tensor:
        """x in a precision that finds the cell (bfloat16 has 8 bits, too few); an error before calibration."""
        if not self.calibrated:
            raise RuntimeError("got an uncalibrated quantizer: run calibrate() or load a checkpoint first")
        return x if x.dtype == torch.float64 else x.float()


class Raw(Quantizer):
    """Leaves an activation as it is, where a placement does not quantize it."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def codes(self, x: Tensor) -> tuple[Tensor, QParams]:
        raise NotPackable("a layer whose input is not quantized has no codes")

    def finish_calibration(self) -> None:
        """There is nothing to calibrate."""


@dataclass(frozen=True)
class Method:
    """weight, act: from the settings and the channels (output channels of a weight, all channels of an activation).

    options: the fields of QuantConfig, beyond bits and placement, that the method knows.
    """

    weight: Callable[[QuantConfig, int], Quantizer]
    act: Callable[[QuantConfig, int], Quantizer]
    options: tuple[str, ...] = ()
