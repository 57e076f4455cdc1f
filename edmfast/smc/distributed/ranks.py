"""Send tensors between the ranks of a process group, as bytes, so that every dtype arrives unchanged.

Tensors are sent from their device if the group's backend supports it (nccl), and otherwise through the host
(gloo). A rank that dies makes the calls of the others fail, at the latest after the group's timeout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

import edmfast._internal.process_groups  # noqa: F401 - it lets a destroyed group end


class Ranks:
    """A process group, seen from one rank whose tensors are on `device`.

    Raises ValueError where this process is not in the group, or its backend does not carry tensors of the device.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.group, self.device = group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not in the group")
        self.carrier = _carrier(group, device)

    def everywhere(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, of one shape, in order of rank."""
        sent = self._bytes(tensor)
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(parts, sent, group=self.group)
        return [self._as(part, tensor) for part in parts]

    def joined(
        self, tensor: Tensor, dim: int, sizes: Sequence[int], *, to_all: bool
    ) -> Tensor | None:
        """Return the concatenation along dim of the tensors of all ranks, which have these sizes there.

        to_all: return it on all ranks. Otherwise rank 0 returns it, and the other ranks return None.
        """
        rows = tensor.movedim(dim, 0)
        # A memory without columns has no bytes to send, as all ranks know.
        if math.prod(rows.shape[1:]) == 0:
            return rows.new_empty((sum(sizes), *rows.shape[1:])).movedim(0, dim)
        # Collectives take tensors of one size, so smaller shares are padded and cut again.
        widest = max(sizes)
        missing = rows.new_zeros((widest - rows.shape[0], *rows.shape[1:]))
        sent = self._bytes(torch.cat([rows, missing]) if len(missing) else rows)
        # Only the shape and the dtype are used, and a meta tensor needs no memory.
        like = rows.new_empty((widest, *rows.shape[1:]), device="meta")
        parts: list[Tensor] | None = None
        if to_all or self.rank == 0:
            parts = [torch.empty_like(sent) for _ in sizes]
        if to_all:
            assert parts is not None
            dist.all_gather(parts, sent, group=self.group)
        else:
            dist.gather(sent, parts, group=self.group, group_dst=0)
        if parts is None:
            return None
        # rank 0 collects alone only for a file, so tensors leave the device one by one
        place = self.device if to_all else torch.device("cpu")
        whole = [
            self._as(part, like, place)[:size] for part, size in zip(parts, sizes, strict=True)
        ]
        return torch.cat(whole).movedim(0, dim)

    def exchange(
        self, rows: Tensor, counts: Tensor, due: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send rows to other ranks, and return the rows for this rank and their counts.

        rows: [R, ...], sorted by the rank they are for. counts: int64 [ranks], the number of rows for each
        rank. due: the number of rows that each rank sends to this one, or None where it is not known. The returned
        rows are sorted by the rank that sent them. The counts are read on the host.
        """
        sent = counts.to(self.carrier)
        # Counts that are known save an exchange.
        if due is None:
            due = torch.empty_like(sent)
            dist.all_to_all_single(due, sent, group=self.group)
        width = math.prod(rows.shape[1:]) * rows.element_size()
        outgoing, incoming = sent.tolist(), due.tolist()
        flat = self._bytes(rows)
        received = flat.new_empty(sum(incoming) * width)
        dist.all_to_all_single(
            received,
            flat,
            [n * width for n in incoming],
            [n * width for n in outgoing],
            group=self.group,
        )
        like = rows.new_empty((sum(incoming), *rows.shape[1:]), device="meta")
        return self._as(received, like), due.to(self.device)

    def _bytes(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8).to(self.carrier)

    def _as(self, sent: Tensor, like: Tensor, device: torch.device | None = None) -> Tensor:
        return sent.to(device or self.device).view(like.dtype).reshape(like.shape)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors [R, ...] side by side as bytes, uint8 [R, B]."""
    return torch.cat(
        [t.reshape(len(t), math.prod(t.shape[1:])).contiguous().view(torch.uint8) for t in tensors],
        1,
    )


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that `pack` joined. like: tensors of their dtypes and shapes, with any number of rows."""
    widths = [math.prod(t.shape[1:]) * t.element_size() for t in like]
    parts = torch.split(packed, widths, 1)
    return [
        # A view as another dtype needs contiguous memory.
        part.contiguous().view(t.dtype).reshape(len(packed), *t.shape[1:])
        for part, t in zip(parts, like, strict=True)
    ]


def _carrier(group: dist.ProcessGroup, device: torch.device) -> torch.device:
    """Return the device on which the group's backend takes tensors of `device`. Raises ValueError for none."""
    backends = dict(
        entry.split(":", 1) for entry in str(dist.get_backend_config(group)).lower().split(",")
    )
    backend = backends.get(device.type)
    # gloo has only some of the collectives for tensors on a GPU.
    if backend is not None and (device.type == "cpu" or backend != "gloo"):
        return device
    if "cpu" in backends:
        return torch.device("cpu")
    raise ValueError(
        f"the group's backend ({', '.join(backends.values())}) does not carry tensors of {device}: "
        "use gloo on a CPU, nccl on GPUs"
    )
