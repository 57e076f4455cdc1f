"""The ranks of a training run, which all hold the same model and average their gradients.

The average is taken of flat buffers that hold many gradients each, because a call for every parameter would cost
more than the sending. Without a group there is one rank, and nothing is sent.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import edmfast._internal.process_groups  # noqa: F401 - it lets a destroyed group end

_BUCKET = 1 << 25
"""The number of bytes from which a flat buffer is sent."""


class Replicas:
    """The ranks of a process group, or a single process for None.

    Raises TypeError for anything but a process group, and ValueError where this process is not in it.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self.group, self.device = group, device
        self.rank, self.size = 0, 1
        if group is None:
            return
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "group must be a process group of torch.distributed, such as torch.distributed.group.WORLD, or "
                f"None, given {group!r}"
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not in the group")

    @property
    def speaks(self) -> bool:
        """True on the rank that shows progress, warns and writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all ranks, in place."""
        if self.group is None or self.size == 1:
            return
        work = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            work.append((bucket, flat, dist.all_reduce(flat, group=self.group, async_op=True)))
        for bucket, flat, handle in work:
            assert handle is not None
            handle.wait()
            flat /= self.size
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, mean in zip(bucket, flat.split(sizes), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def end(self) -> None:
        """Let go of what could keep the group alive after the run."""
        if self.group is None:
            return
        # the first optimiser imports modules whose caught errors keep the frames of the run in cycles
        gc.collect()

    def agree_on(self, failure: Exception | None) -> None:
        """Raise the failure of this rank, or RuntimeError where another rank has one. All ranks must call."""
        try:
            flags = self.failed(failure is not None)
            if failure is not None:
                raise failure
            if bool(flags.any()):
                raise failure_of(flags)
        finally:
            # an error that its own traceback holds would keep the group alive
            failure = None

    def failed(self, here: bool) -> Tensor:
        """Return for each rank whether it has failed, as numbers [ranks]. All ranks must call.

        here: this rank has failed.
        """
        flags = torch.zeros(self.size, device=self.device)
        flags[self.rank] = float(here)
        if self.group is not None:
            dist.all_reduce(flags, group=self.group)
        return flags

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all ranks raise where the block raises on one of them. The block must send nothing."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        try:
            self.agree_on(failure)
        finally:
            failure = None

    def first_only(self, work: Callable[[], object]) -> None:
        """Run work on rank 0, whose exception makes the other ranks raise RuntimeError."""
        failure: Exception | None = None
        if self.speaks:
            try:
                work()
            except Exception as error:
                failure = error
        if self.group is not None:
            # the other ranks would wait for a rank that has failed
            flag = torch.tensor(float(failure is not None), device=self.device)
            dist.broadcast(flag, group=self.group, group_src=0)
            if failure is None and bool(flag > 0):
                raise RuntimeError("rank 0 of the group failed, and its error says why")
        try:
            if failure is not None:
                raise failure
        finally:
            # as in `agree_on`
            failure = None

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0, in place."""
        if self.group is None:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, group=self.group, group_src=0)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(sent)

    def agree(self, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError, on all ranks, where they have different values of a named argument.

        Values are those that JSON can hold.
        """
        if self.group is None:
            return
        texts = [json.dumps(value, sort_keys=True) for value in arguments.values()]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        # seven bytes fit a signed 64-bit integer
        numbers = [int.from_bytes(digest[:7], "little") for digest in digests]
        sent = torch.tensor(numbers, device=self.device)
        gathered = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(gathered, sent, group=self.group)
        same = torch.stack(gathered).eq(gathered[0]).all(0).tolist()
        if not all(same):
            differing = [name for name, equal in zip(arguments, same, strict=True) if not equal]
            raise ValueError(f"the ranks of the group differ in {', '.join(differing)}")


def before_run(group: dist.ProcessGroup | None, student: Any) -> Replicas:
    """Return the ranks that check the arguments of a run together.

    student: a module, which tells the device, or anything else that the check will refuse.
    """
    first = next(student.parameters(), None) if isinstance(student, nn.Module) else None
    return Replicas(group, torch.device("cpu") if first is None else first.device)


def failure_of(flags: Tensor) -> RuntimeError:
    """Return the error of a rank that has not failed itself.

    flags: [ranks], nonzero for those that have failed.
    """
    ranks = flags.nonzero().flatten().tolist()
    named = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return RuntimeError(f"{named} of the group failed, and the error there says why")


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors in lists of one dtype each, of at least `_BUCKET` bytes but for the last of a dtype."""
    done: list[list[Tensor]] = []
    open_buckets: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_buckets.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(t.numel() * t.element_size() for t in bucket) >= _BUCKET:
            done.append(open_buckets.pop(tensor.dtype))
    return [*done, *open_buckets.values()]
