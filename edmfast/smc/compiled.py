"""The step traced as one flat graph and compiled, once for each mode of a run.

The score is a gradient, which torch.compile cannot trace; see `edmfast.models.compiling.flat_graph`. On a GPU the
graph is captured as a CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.models.compiling.attributes import Attributes
from edmfast.models.compiling.flat_graph import FlatGraph, Tensors
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.proposals import Step
from edmfast.smc.step import Advance, Mode


class CompiledStep:
    """A compiled `Advance`, called in the same way."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.flats: dict[tuple[Mode, bool], FlatGraph] = {}
        self.watched = Watched(advance.phases.parts)
        self.given_up = False

    def __call__(
        self,
        state: ParticleState,
        step: Step,
        next_step: Step | None,
        rng: Tensor,
        next_rng: Tensor,
        mode: Mode,
    ) -> ParticleState:
        def eager() -> tuple[Tensor, ...]:
            return self.advance(state, step, next_step, rng, next_rng, mode).tensors()

        if not self.given_up and (changed := self.watched.change()):
            self.given_up = True
            warnings.warn(
                f"{changed} changed during a compiled run, whose graphs hold what it was: the run goes on eagerly",
                stacklevel=2,
            )
        # A step that failed in one mode is not tried in others: each attempt may take minutes.
        if self.given_up or any(flat.failed for flat in self.flats.values()):
            return ParticleState.from_tensors(eager())
        # each mode is a graph of its own, since its branches are decided at tracing
        key = (mode, next_step is None)
        if key not in self.flats:
            self.flats[key] = self._flat(*key)
        # The graph would hold plain numbers as constants, so what changes from step to step is a
        # tensor.
        numbers = _as_tensors(step, next_step, state.x.device)
        inputs = (*numbers, rng, next_rng, *state.tensors())
        return ParticleState.from_tensors(self.flats[key]([], inputs, eager))

    def _flat(self, mode: Mode, ends: bool) -> FlatGraph:
        def traced(_: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            index, s, u, after, rng, next_rng, *rest = inputs
            state, step = ParticleState.from_tensors(rest), Step(index, s, u)
            next_step = None if ends else Step(index + 1, u, after)
            return self.advance(state, step, next_step, rng, next_rng, mode).tensors()

        return FlatGraph(traced, otherwise="the run goes on eagerly", mode="reduce-overhead")


class Watched:
    """The plain attributes and the weights of all modules that Feynman–Kac models evaluate."""

    def __init__(self, models: Sequence[FeynmanKac]) -> None:
        modules = {id(m): m for fk in models for part in _modules(vars(fk)) for m in part.modules()}
        self.attributes = Attributes(modules.values())
        self.tensors = [
            tensor
            for module in modules.values()
            for place in (module._parameters, module._buffers)
            for tensor in place.values()
            # Tensors of inference mode count no versions.
            if tensor is not None and not tensor.is_inference()
        ]
        self.versions = self._versions()

    def change(self) -> str | None:
        """Return a name for what has changed since the start, None where nothing has."""
        if self._versions() != self.versions:
            return "a parameter or buffer"
        attribute = self.attributes.change()
        return None if attribute is None else f"the attribute {attribute}"

    def _versions(self) -> list[tuple[int, int]]:
        # A change in place raises the version, and a replaced tensor has another address.
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


def _as_tensors(step: Step, next_step: Step | None, device: torch.device) -> tuple[Tensor, ...]:
    """Return index int64 [], and s, u and the level after u float64 []; a fill on the device does not wait for it.

    At the last level nothing follows, and u stands in for the level after it.
    """
    index = torch.empty((), dtype=torch.int64, device=device).fill_(step.index)
    levels = (step.s, step.u, step.u if next_step is None else next_step.u)
    return index, *(torch.empty((), dtype=torch.float64, device=device).fill_(v) for v in levels)
