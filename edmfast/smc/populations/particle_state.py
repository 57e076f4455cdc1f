"""The state of all particles at one noise level, and a proposed move to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from edmfast.ops import Weights


class ParticleState(NamedTuple):
    """The particles [P, N] at one noise level, with the resampling decision made there.

    x: states [P, N, *shape].
    energy: [P, N], the energy U, or another number that enters the weight of the next move.
    score: [P, N, *shape], or [M, P, N, *shape] with one score per model.
    kernel: numbers of the next move, float64 [P, N] or [P, N, C]: the curvature of every particle, or all
        coefficients of its move; empty where the proposal needs none.
    memory: float64 [P, N, C], numbers that a particle hands down to its offspring. The columns of the
        Feynman–Kac model come first, then those of the rewards.
    tuning: float64 [2, C, P], log step sizes and acceptances of the C correctors.
    parents: int32 [P, N], the ancestors if correctors have applied them already, otherwise empty.
    weights: log-weights, log Z and ancestors, see `edmfast.ops.Weights`.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    kernel: Tensor
    memory: Tensor
    tuning: Tensor
    parents: Tensor
    weights: Weights

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors in order, those of the weights last."""
        return (*self[:-1], *self.weights)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> ParticleState:
        """Build the state from what `tensors` returns."""
        x, energy, score, kernel, memory, tuning, parents, *weights = tensors
        return cls(x, energy, score, kernel, memory, tuning, parents, Weights(*weights))


class Move(NamedTuple):
    """A proposed move of all particles.

    x: the new states [P, N, *shape].
    log_ratio: [P, N] in nats, log(density of the backward kernel / density of the proposal).
        For models without energies it is the whole increment of the log-weights, apart from rewards. None where it
        is 0 for all particles.
    memory: float64 [P, N, C], the columns of the Feynman–Kac model for the slots that the particles moved to.
    """

    x: Tensor
    log_ratio: Tensor | None
    memory: Tensor
