"""Several processes that train one network, as torchrun starts them.

Each computes its share of every batch; gradients are averaged, so that all make the step that one process would make
on the whole batch. Process 0 alone writes files.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Workers:
    """rank: this process, from 0. count: all of them."""

    rank: int = 0
    count: int = 1

    @property
    def share(self) -> slice:
        """The pairs of a batch that are this process's own."""
        return slice(self.rank, None, self.count)

    def agree(self, network: nn.Module) -> None:
        """Gives the networks of all processes the state and the ranking of that of process 0."""
        if self.count == 1:
            return
        for tensor in (*network.parameters(), *network.buffers()):
            distributed.broadcast(tensor.detach(), 0)
        # what else a state holds lies in the CPU's memory, where NCCL cannot send from
        extra = {name: tensor for name, tensor in network.state_dict().items() if name.endswith("_extra_state")}
        told = [extra, network.ranking]
        distributed.broadcast_object_list(told, 0)
        network.load_state_dict(told[0], strict=False)
        network.set_ranking(told[1])

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over all processes, in place and in one message."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, here: bool) -> bool:
        """Whether it holds in any process."""
        if self.count == 1:
            return here
        flag = torch.tensor([float(here)], device=_device())
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


def join(device: str) -> Workers:
    """Meets the other processes that torchrun has started; a plain start is alone. device: "cpu" or "cuda"."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    if not distributed.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    return Workers(distributed.get_rank(), count)


def leave() -> None:
    """To be called when all is done, by all."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
