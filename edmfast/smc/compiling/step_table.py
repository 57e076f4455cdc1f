"""All steps of a run as tensors on its device, from which a traced step takes its own by an index.

A graph would hold plain numbers as constants, and tensors that are made from them inside a trace are constants on
the CPU, which every call copies to the device. So everything that changes from step to step is a row here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.smc.proposals import Step

_PREPARED = ("coefficients", "levels", "kappa")


class TracedStep(NamedTuple):
    """A step of a trace: what moves the particles to a level, and what follows that level."""

    step: Step
    next_step: Step | None
    rng: Tensor
    next_rng: Tensor
    level: Tensor
    """The number of the level that the step leads to, int64 [1]."""


class StepTable:
    """The steps between T levels. steps: all of them, prepared. rng: int64 [T, 2], the noise of every level."""

    def __init__(self, steps: Sequence[Step], rng: Tensor) -> None:
        self.steps, self.rng, device = steps, rng, rng.device
        levels = [step.s for step in steps] + [step.u for step in steps[-1:]]
        self.levels = torch.tensor(levels, dtype=torch.float64, device="cpu").to(device)
        self.index = torch.arange(len(steps), device=device)[:, None]
        self.columns = {name: _column(steps, name) for name in _PREPARED}

    def traced(self, index: Tensor, step: Step, next_step: Step | None) -> TracedStep:
        """Return the step of a trace. index: int64 [1]. step, next_step: those of the call that is traced.

        The graph serves all steps that are prepared as these are, and that are or are not followed by another.
        """
        after = index + 1
        return TracedStep(
            self._at(index, step),
            None if next_step is None else self._at(after, next_step),
            _row(self.rng, index),
            _row(self.rng, after),
            after,
        )

    def _at(self, index: Tensor, like: Step) -> Step:
        prepared = {
            name: _row(column, index)
            for name, column in self.columns.items()
            if column is not None and getattr(like, name) is not None
        }
        s, u = _row(self.levels, index), _row(self.levels, index + 1)
        return dataclasses.replace(like, index=index.reshape(()), s=s, u=u, **prepared)


def _column(steps: Sequence[Step], name: str) -> Tensor | None:
    """Return a field of all steps as one tensor, which is 0 for steps without it; None where no step has it."""
    rows = [getattr(step, name) for step in steps]
    like = next((row for row in rows if row is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if row is None else row for row in rows])


def _row(column: Tensor, index: Tensor) -> Tensor:
    """Return a row of a column. index: int64 [1]."""
    return column.index_select(0, index).squeeze(0)
