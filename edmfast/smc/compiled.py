"""The step traced as one flat graph and compiled, once for each of the two or three modes of a run.

The score is a gradient, which torch.compile cannot trace; see `edmfast.models.flat`. On a GPU the graph is
captured as a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.models.flat import Flat, Tensors
from edmfast.smc.proposals import Step
from edmfast.smc.step import Law, Mode, Moving, advance


class CompiledStep:
    """Called as `advance` is, without the law."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.flats: dict[Mode, Flat] = {}

    def __call__(
        self, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
    ) -> Moving:
        def eager() -> tuple[Tensor, ...]:
            return advance(self.law, moving, step, rng, next_rng, mode).flat()

        if any(flat.failed for flat in self.flats.values()):
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


def _as_tensors(step: Step, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """index int64 [], s and u float64 []; filled on the device, which does not wait for it."""
    index = torch.empty((), dtype=torch.int64, device=device).fill_(step.index)
    s, u = (torch.empty((), dtype=torch.float64, device=device).fill_(v) for v in (step.s, step.u))
    return index, s, u
