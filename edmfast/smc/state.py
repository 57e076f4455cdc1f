"""The state of a run between two steps, and its tensors by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.ops import Weights
from edmfast.smc.populations.particle_state import ParticleState

TRACES = ("ess", "resampled", "log_weight_sd", "survivors", "acceptance")
PARTICLES = (*ParticleState._fields[:-1], *(f"weights.{name}" for name in Weights._fields))


class Row(NamedTuple):
    """The numbers [P] that a run records at one level, as in `Particles`. Any dtype holds them."""

    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor
    survivors: Tensor

    @classmethod
    def of(cls, weights: Weights) -> Row:
        """Return what a run records of the weights at a level."""
        return cls(weights.ess, weights.resampled, weights.increment_sd, weights.survivors)


@dataclass
class State:
    """A run at noise level `index` of its schedule of T levels.

    particles: those of that level. rows: what was recorded at the levels so far. They are kept as they are and put
    together when they are read, so that recording launches nothing. acceptance: [T, C, P], and ancestors [T, P, N]
    where they are recorded, as in `Particles`.
    """

    index: int
    particles: ParticleState
    rows: list[Row]
    acceptance: Tensor
    ancestors: Tensor | None = None

    def record(self, index: int, row: Row) -> None:
        """Keep what was recorded at a level, in place of rows that a step made which did not end."""
        self.rows[index:] = [row]

    @property
    def ess(self) -> Tensor:
        """The effective sample sizes, float64 [T, P]."""
        return self._trace([row.ess for row in self.rows], torch.float64)

    @property
    def resampled(self) -> Tensor:
        """The decisions, bool [T, P]."""
        return self._trace([row.resampled for row in self.rows], torch.bool)

    @property
    def log_weight_sd(self) -> Tensor:
        """The standard deviations of the increments, float64 [T, P] in nats."""
        return self._trace([row.log_weight_sd for row in self.rows], torch.float64)

    @property
    def survivors(self) -> Tensor:
        """The numbers of starting particles that have descendants, int64 [T, P]."""
        return self._trace([row.survivors for row in self.rows], torch.int64)

    def _trace(self, rows: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Return one row for each of T levels, which is 0 for those to come."""
        levels, made = len(self.acceptance), [row.to(dtype) for row in rows[: self.index + 1]]
        to_come = made[0].new_zeros((levels - len(made), *made[0].shape))
        return torch.cat([torch.stack(made), to_come])


def tensors_of(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by name, as a checkpoint holds them."""
    tensors = dict(zip(PARTICLES, state.particles.tensors(), strict=True))
    tensors |= {name: getattr(state, name) for name in TRACES}
    if state.ancestors is not None:
        tensors["ancestors"] = state.ancestors
    return tensors


def state_of(index: int, tensors: dict[str, Tensor]) -> State:
    """Return the state at a noise level from what `tensors_of` returns."""
    particles = ParticleState.from_tensors([tensors[name] for name in PARTICLES])
    traces = [tensors[name].unbind(0) for name in Row._fields]
    rows = [Row(*numbers) for numbers in zip(*traces, strict=True)][: index + 1]
    return State(index, particles, rows, tensors["acceptance"], tensors.get("ancestors"))
