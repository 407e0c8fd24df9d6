"""The ways to execute a packed model, for parity checks: the engine, the numpy reference, and PyTorch."""

from collections.abc import Callable
from typing import Any

from quantsr import images
from quantsr.evaluate import Upscaler
from quantsr.images import UInt8
from quantsr.packing.program import PackedModel


def engine(packed: PackedModel, depth: str, threads: int | None, fast: bool = False, tta: bool = False) -> Upscaler:
    """The native engine. fast, tta, and what is raised: as for `quantsr.model.Model` and `quantsr.engine.Engine`."""
    from quantsr.model import Model

    model = Model(packed, threads, fast, tta)
    model.engine(depth)  # fails at once if ever
    return lambda image: model.upscale(image, depth=depth)


def reference(packed: PackedModel, depth: str, threads: int | None) -> Upscaler:
    """The numpy interpreter: slow."""
    from quantsr import reference

    program = packed.programs[depth]
    return lambda image: images.to_uint8(reference.run(program, packed.tensors, images.to_float(image)))


def torch(packed: PackedModel, depth: str, threads: int | None) -> Upscaler:
    """The fake-quantized PyTorch network, float32."""
    from quantsr.packing.lift import lift

    return of_network(lift(packed), depth, threads)


def of_network(network: Any, depth: str, threads: int | None = None) -> Upscaler:
    """A PyTorch network of `quantsr.models` in eval mode, quantized or not, as it is.

    threads: of torch in this process; None leaves them as they are.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)

    @torch.no_grad()
    def upscale(image: UInt8) -> UInt8:
        x = torch.from_numpy(images.to_float(image)).permute(2, 0, 1)[None]
        sr = network(x, depth=depth)[0].permute(1, 2, 0).numpy()  # (H*s, W*s, 3)
        return images.to_uint8(sr)

    return upscale


BACKENDS: dict[str, Callable[[PackedModel, str, int | None], Upscaler]] = {
    "engine": engine,
    "reference": reference,
    "torch": torch,
}
