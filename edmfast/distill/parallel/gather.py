"""Parameters that are shared out over the ranks: gathered where they are used, with gradients scattered back.

A parameter of n numbers is flattened and padded to a multiple of the number of ranks R, and rank r holds the r-th
of R equal pieces. Gathering is differentiable: its derivative averages the gradients of all ranks and gives each
rank its own piece (reduce-scatter), and the derivative of that gathers again. So gradients of any order are right.
All ranks must gather and differentiate the same parameters in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
Shapes = Sequence[torch.Size]
# torch 2.13 renames both collectives, and warns of the earlier names
_collectives: Any = dist
_all_gather = getattr(dist, "all_gather_single", None) or _collectives.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or _collectives.reduce_scatter_tensor


def piece_of(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """Return a copy of one rank's piece of a tensor, [ceil(n/ranks)], whose last numbers may be zeros."""
    flat = tensor.detach().reshape(-1)
    size = math.ceil(flat.numel() / ranks)
    piece = flat.new_zeros(size)
    part = flat[rank * size : (rank + 1) * size]
    piece[: part.numel()] = part
    return piece


def gather(pieces: Sequence[Tensor], shapes: Shapes, group: Group) -> tuple[Tensor, ...]:
    """Return the whole tensors of some shapes, differentiably, from this rank's pieces of them."""
    return _gather(group, shapes, *pieces)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, shapes: Shapes, *pieces: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.shapes = group, shapes
        return tuple(_gathered(pieces, shapes, group))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return None, None, *_scatter(ctx.group, ctx.shapes, *cotangents)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, shapes: Shapes, *wholes: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.shapes = group, shapes
        return tuple(_averaged(wholes, group))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        wholes = _gather(ctx.group, ctx.shapes, *cotangents)
        return None, None, *(whole / dist.get_world_size(ctx.group) for whole in wholes)


_gather: Callable[..., tuple[Tensor, ...]] = _Gather.apply
_scatter: Callable[..., tuple[Tensor, ...]] = _Scatter.apply


def _gathered(pieces: Sequence[Tensor], shapes: Shapes, group: Group) -> list[Tensor]:
    ranks = dist.get_world_size(group)
    wholes: list[Tensor | None] = [None] * len(pieces)
    for places in _by_dtype(pieces):
        # one call for many parameters, whose pieces lie side by side
        sent = torch.cat([pieces[i] for i in places])
        received = sent.new_empty(ranks, sent.numel())
        _all_gather(received.view(-1), sent, group=group)
        sizes = [pieces[i].numel() for i in places]
        for i, columns in zip(places, received.split(sizes, 1), strict=True):
            wholes[i] = columns.reshape(-1)[: shapes[i].numel()].view(shapes[i])
    return [whole for whole in wholes if whole is not None]


def _averaged(wholes: Sequence[Tensor], group: Group) -> list[Tensor]:
    ranks = dist.get_world_size(group)
    pieces: list[Tensor | None] = [None] * len(wholes)
    for places in _by_dtype(wholes):
        sizes = [math.ceil(wholes[i].numel() / ranks) for i in places]
        sent = wholes[places[0]].new_zeros(ranks, sum(sizes))
        for i, columns in zip(places, sent.split(sizes, 1), strict=True):
            flat = wholes[i].reshape(-1)
            padded = torch.nn.functional.pad(flat, (0, columns.numel() - flat.numel()))
            columns.copy_(padded.view(ranks, -1))
        received = sent.new_empty(sum(sizes))
        _reduce_scatter(received, sent.view(-1), group=group)
        received /= ranks
        for i, piece in zip(places, received.split(sizes), strict=True):
            # a view would keep the pieces of the other parameters alive
            pieces[i] = piece.clone()
    return [piece for piece in pieces if piece is not None]


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[int]]:
    places: dict[torch.dtype, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(tensor.dtype, []).append(i)
    return [*places.values()]
