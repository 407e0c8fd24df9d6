"""PyTorch, convolutions in channels-last layout: eager, compiled with frozen weights, and eager in bfloat16."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.bench.job import Job
from quantsr.packing.program import IMAGE, Op


class Network(nn.Module):
    """A float program, op by op."""

    def __init__(self, ops: tuple[Op, ...], output: str, tensors: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.ops, self.output = ops, output
        for index, op in enumerate(ops):
            for role, name in op.tensors.items():
                array = torch.from_numpy(tensors[name].copy())
                if role == "weight":
                    array = array.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
                elif op.kind == "affine":
                    array = array.view(1, -1, 1, 1)
                self.register_buffer(f"{role}_{index}", array)

    def forward(self, image: Tensor) -> Tensor:
        values = {IMAGE: image}
        for index, op in enumerate(self.ops):
            values[op.output] = self.step(index, op, [values[name] for name in op.inputs])
        return values[self.output]

    def step(self, index: int, op: Op, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        if op.kind == "conv2d":
            weight = getattr(self, f"weight_{index}")
            return functional.conv2d(x, weight, getattr(self, f"bias_{index}"), padding=weight.shape[2] // 2)
        if op.kind == "affine":
            return x * getattr(self, f"scale_{index}") + getattr(self, f"offset_{index}")
        if op.kind == "relu":
            return functional.relu(x)
        if op.kind == "residual":
            return x * op.attrs["gain"] + inputs[1] if op.attrs["gain"] != 1 else x + inputs[1]
        return functional.pixel_shuffle(x, int(op.attrs["upscale"]))


class Peer:
    def __init__(self, job: Job, *, compiled: bool = False, bf16: bool = False) -> None:
        torch.set_num_threads(job.threads)
        part, dtype = job.plain(), torch.bfloat16 if bf16 else torch.float32
        network = Network(part.program.ops, part.program.output, dict(part.tensors)).eval().to(dtype)
        pixels = torch.from_numpy(job.pixels()).permute(2, 0, 1)[None]  # HWC in memory is channels-last
        self.pixels = pixels.to(dtype)
        self.network = network
        if compiled:
            from torch._inductor import config

            config.freezing = True
            self.network = torch.compile(network)

    @torch.inference_mode()
    def run(self) -> None:
        self.out = self.network(self.pixels)

    def result(self) -> np.ndarray:
        return np.ascontiguousarray(self.out[0].permute(1, 2, 0).float().numpy())

    def kernels(self) -> dict[str, int]:
        return {}
