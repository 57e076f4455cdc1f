"""The step traced as one flat graph and compiled, once for each of the two or three modes of a run.

The score is a gradient, which torch.compile cannot trace; see `edmfast.models.compiling.flat`. On a GPU the
graph is captured as a CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.models.compiling.attributes import Attributes
from edmfast.models.compiling.flat import Flat, Tensors
from edmfast.smc.proposals import Step
from edmfast.smc.step import Law, Mode, Moving, advance


class CompiledStep:
    """Called as `advance` is, without the law."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.flats: dict[Mode, Flat] = {}
        self.watched = Watched(law)
        self.given_up = False

    def __call__(
        self, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
    ) -> Moving:
        def eager() -> tuple[Tensor, ...]:
            return advance(self.law, moving, step, rng, next_rng, mode).flat()

        if not self.given_up and (changed := self.watched.change()):
            self.given_up = True
            warnings.warn(
                f"{changed} changed during a compiled run, whose graphs hold what it was: the run goes on eagerly",
                stacklevel=2,
            )
        if self.given_up or any(flat.failed for flat in self.flats.values()):
            return Moving.of(eager())
        if mode not in self.flats:
            self.flats[mode] = self._flat(mode)
        inputs = (*_as_tensors(step, moving.x.device), rng, next_rng, *moving.flat())
        return Moving.of(self.flats[mode]([], inputs, eager))

    def _flat(self, mode: Mode) -> Flat:
        def step(_: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            index, s, u, rng, next_rng, *rest = inputs
            return advance(self.law, Moving.of(rest), Step(index, s, u), rng, next_rng, mode).flat()

        return Flat(step, otherwise="the run goes on eagerly", mode="reduce-overhead")


class Watched:
    """The plain attributes and the weights of all modules that a law evaluates."""

    def __init__(self, law: Law) -> None:
        found = {id(m): m for part in _modules(vars(law)) for m in part.modules()}
        self.attributes = Attributes(found.values())
        self.tensors = [
            tensor
            for module in found.values()
            for place in (module._parameters, module._buffers)
            for tensor in place.values()
            if tensor is not None and not tensor.is_inference()
        ]
        self.versions = self._versions()

    def change(self) -> str | None:
        """Return what is another one than at the start, None where nothing is."""
        if self._versions() != self.versions:
            return "a parameter or buffer"
        found = self.attributes.change()
        return None if found is None else f"the attribute {found}"

    def _versions(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self.tensors]


def _modules(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _modules(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _modules(part)


def _as_tensors(step: Step, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """index int64 [], s and u float64 []; filled on the device, which does not wait for it."""
    index = torch.empty((), dtype=torch.int64, device=device).fill_(step.index)
    s, u = (torch.empty((), dtype=torch.float64, device=device).fill_(v) for v in (step.s, step.u))
    return index, s, u
