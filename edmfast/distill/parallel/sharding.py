"""A student whose parameters are shared out over the ranks, for models that do not fit on one of them.

Every rank holds a piece of each parameter, and so do its optimiser and its average. A block gathers its
parameters when it runs and frees them afterwards. Since the blocks recompute their activations for each derivative
(see `edmfast.models.recomputing`), the whole parameters are not kept between the passes either. All other
parameters are gathered for the evaluation of a loss.

torch's `fully_shard` (2.13) cannot train an energy. Its hooks free the gathered parameters at the end of the first
derivative, the score, so that the second derivative fails with storages of size 0. Where they are told to keep the
parameters (reshard_after_forward=False, set_reshard_after_backward(False)), the gradients of all parameters stay
None without an error.

Source: Rajbhandari et al. 2020, arXiv 1910.02054 (ZeRO, stage 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edmfast.distill.parallel.gather import gather, piece_of
from edmfast.models.recomputing.blocks import (
    Recomputing,
    checkpoint_blocks,
    find_blocks,
    recomputing_blocks,
    restore_blocks,
)

Entry = tuple[nn.Module, str]
"""A module and the name of one of its own parameters."""


class Sharding:
    """The pieces of a student's parameters on this rank.

    The student's parameters are pieces under the same names until `release`, and its blocks recompute their
    activations. A student without blocks gathers all its parameters for a loss. All ranks must have the same
    parameters, and must make the same calls.

    shapes: the whole shapes of the parameters by name.
    """

    def __init__(self, student: nn.Module, group: dist.ProcessGroup) -> None:
        self.student, self.group = student, group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        named = student.named_parameters(remove_duplicate=False)
        self.shapes = {name: parameter.shape for name, parameter in named}
        self._added = not recomputing_blocks(student)
        blocks = find_blocks(student) if self._added else recomputing_blocks(student)
        self._entries = _entries(student)
        # a parameter that two modules share stays one parameter
        pieces: dict[nn.Parameter, nn.Parameter] = {}
        for whole in dict.fromkeys(_own(module, name) for module, name in self._entries):
            numbers = piece_of(whole, self.rank, self.ranks)
            pieces[whole] = nn.Parameter(numbers, requires_grad=whole.requires_grad)
        for module, name in self._entries:
            module._parameters[name] = pieces[_own(module, name)]
        self._wholes = {piece: whole for whole, piece in pieces.items()}
        shapes = {piece: whole.shape for whole, piece in pieces.items()}
        inside = {module for block in blocks for module in block.modules()}
        self._rest = _Unit(
            [entry for entry in self._entries if entry[0] not in inside], shapes, group
        )
        for block in blocks:
            _Gathering(block, _Unit(_entries(block), shapes, group)).install()
        if blocks and self._added:
            checkpoint_blocks(student)
        for whole in pieces:
            # the parameter waits for its numbers until the release
            whole.data = whole.data.new_empty(0)

    def around(self, loss: nn.Module) -> nn.Module:
        """Return a loss of the student that gathers the parameters outside of blocks while it is evaluated."""
        return _GatheredLoss(loss, self._rest)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm [] of the whole gradients, of which this rank has pieces."""
        squared = torch.nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(squared, group=self.group)
        return squared.sqrt()

    @torch.no_grad()
    def whole(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with those named like parameters gathered, on the CPU of the first rank.

        Other ranks get an empty dictionary.
        """
        gathered = {}
        for name, tensor in named.items():
            shape = self.shapes.get(name)
            # one at a time, because all of them together may not fit on a device
            whole = tensor if shape is None else gather([tensor.detach()], [shape], self.group)[0]
            if self.rank == 0:
                gathered[name] = whole.cpu()
        return gathered

    def pieces(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors, with this rank's pieces of those that have the name and the shape of a parameter."""
        return {
            name: piece_of(tensor, self.rank, self.ranks)
            if tensor.shape == self.shapes.get(name)
            else tensor
            for name, tensor in named.items()
        }

    @torch.no_grad()
    def call_whole(self, module: nn.Module, method: Callable[[], object]) -> None:
        """Call a method of a module of the student that changes its parameters in place, with whole ones."""
        unit = _Unit(_entries(module), self._rest.shapes, self.group)
        pieces = [_own(owner, name) for owner, name in unit.entries]
        with unit.gathered():
            method()
            for (owner, name), piece in zip(unit.entries, pieces, strict=True):
                piece.copy_(piece_of(_own(owner, name), self.rank, self.ranks))

    @torch.no_grad()
    def release(self) -> None:
        """Give the student its whole parameters again, on every rank, and its own forwards.

        All ranks must call.
        """
        try:
            for piece, whole in self._wholes.items():
                (whole.data,) = gather([piece.detach()], [self._rest.shapes[piece]], self.group)
        except BaseException:
            self.abandon()
            raise
        self._restore()

    @torch.no_grad()
    def abandon(self) -> None:
        """Give the student its own forwards and parameters of NaN.

        This is for a rank to which the other ranks cannot send their pieces.
        """
        for piece, whole in self._wholes.items():
            lost = torch.nan if piece.is_floating_point() else 0
            number, shape = piece.new_full((), lost), self._rest.shapes[piece]
            try:
                whole.data = number.expand(shape).clone()
            except RuntimeError:  # there is no memory, which is often the reason
                whole.data = number.expand(shape)
        self._restore()

    def _restore(self) -> None:
        # in this order, because a recomputation that was taken out would keep its block's gathering, and the group
        for module in self.student.modules():
            _Gathering.remove(module)
        if self._added:
            restore_blocks(self.student)
        for module, name in self._entries:
            module._parameters[name] = self._wholes[_own(module, name)]


class _Unit:
    """Parameters that are gathered together. shapes: the whole shapes by piece."""

    def __init__(
        self,
        entries: Sequence[Entry],
        shapes: Mapping[nn.Parameter, torch.Size],
        group: dist.ProcessGroup,
    ) -> None:
        self.entries, self.shapes, self.group = entries, shapes, group
        self.own = [shapes[_own(module, name)] for module, name in entries]

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Give the modules their whole parameters within the block."""
        # a recomputation may have put other tensors in the places of the pieces
        before = [module._parameters[name] for module, name in self.entries]
        places: dict[int, int] = {}
        for i, tensor in enumerate(before):
            places.setdefault(id(tensor), i)
        chosen: list[Any] = [before[i] for i in places.values()]
        if not chosen:
            yield
            return
        wholes = gather(chosen, [self.own[i] for i in places.values()], self.group)
        of = dict(zip(places, wholes, strict=True))
        for (module, name), tensor in zip(self.entries, before, strict=True):
            whole: Any = of[id(tensor)]
            module._parameters[name] = whole
        # the graph keeps what it needs, and nothing else may keep the rest
        del wholes, of, whole
        try:
            yield
        finally:
            for (module, name), tensor in zip(self.entries, before, strict=True):
                module._parameters[name] = tensor


class _Gathering:
    """The forward of a block that gathers its parameters while it runs."""

    def __init__(self, block: nn.Module, unit: _Unit) -> None:
        self.block, self.unit = block, unit
        self.before: Any = None

    def install(self) -> None:
        """Put this forward below the recomputation of the block, which must not keep what is gathered."""
        outer = vars(self.block).get("forward")
        if isinstance(outer, Recomputing):
            self.before, outer.before = outer.before, self
        else:
            self.before, self.block.__dict__["forward"] = outer, self

    @staticmethod
    def remove(block: nn.Module) -> None:
        """Undo `install` where it was done."""
        outer = vars(block).get("forward")
        if isinstance(outer, Recomputing) and isinstance(outer.before, _Gathering):
            outer.before = outer.before.before
        elif isinstance(outer, _Gathering):
            del block.__dict__["forward"]
            if outer.before is not None:
                block.__dict__["forward"] = outer.before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.unit.gathered():
            if self.before is not None:
                return self.before(*args, **kwargs)
            return type(self.block).forward(self.block, *args, **kwargs)


class _GatheredLoss(nn.Module):
    def __init__(self, loss: nn.Module, unit: _Unit) -> None:
        super().__init__()
        self.loss, self.unit = loss, unit

    def forward(self, batch: Any) -> Tensor:
        with self.unit.gathered():
            value: Tensor = self.loss(batch)
            return value


def _entries(root: nn.Module) -> list[Entry]:
    return [
        (module, name)
        for module in root.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def _own(module: nn.Module, name: str) -> nn.Parameter:
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter
