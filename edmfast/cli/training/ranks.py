"""The processes of `torchrun -m edmfast.cli distill …`: their process group, and which of them speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The process group of a run, None for a single process.

    first: True on the rank that prints and writes.
    """

    group: dist.ProcessGroup | None
    first: bool

    @property
    def size(self) -> int:
        """The number of processes."""
        return 1 if self.group is None else dist.get_world_size(self.group)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.group is not None:
            dist.barrier(self.group)


@contextmanager
def ranks_of(device: torch.device) -> Iterator[Ranks]:
    """Join the process group that torchrun describes in the environment, if any, and leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Ranks(None, True)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.group.WORLD, dist.get_rank() == 0)
        # a rank that leaves while another one still sends may end that one by an abort
        dist.barrier()
    finally:
        dist.destroy_process_group()
