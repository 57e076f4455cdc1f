"""The Feynman–Kac model of a target with an energy: exact weights for any proposal and any step size.

log G = R - [U(x_u, u) - U(x_s, s)] with R from `edmfast.ops.propagate`. The sum is formed in
`edmfast.ops.weigh_and_resample` (`accumulate` in its reference). At a low temperature gamma is already inside U
and S (`edmfast.targets.Tempered`); as the exponent A it also sets the start and the proposal.
Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006 (SMC samplers).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast.ops import curvature_matched, propagate
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate
from edmfast.smc.feynman_kac.levels import levels_of, with_levels
from edmfast.smc.particles.law_notes import EXACT
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import CurvatureMatched, Step, coefficients_of

EXACT_LAW = (
    f"{EXACT}: weights from energies, for the target at the last noise level and any step size"
)


class EnergyFeynmanKac(FeynmanKac):
    """A Feynman–Kac model that takes U and S from `target.energy_and_score`."""

    @property
    def has_energy(self) -> bool:
        return True

    def evaluate(
        self,
        x: Tensor,
        sigma: float | Tensor,
        rng: Tensor,
        populations: Populations,
        *,
        probes: int,
        step: Step | None,
    ) -> Evaluation:
        return evaluate(
            self.target,
            x,
            sigma,
            rng=rng,
            probe=probes > 0,
            first_population=populations.first_population,
            first_particle=populations.first_particle,
            batch_size=self.batch_size,
            exponent=self.exponent,
        )

    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        # one pass over x: a copy in float64 would cost as much as a proposal step
        squares = torch.linalg.vector_norm(x.flatten(2), dim=2, dtype=torch.float64).square()
        scale = population_factors(self.exponent / (2 * sigma**2), squares)
        return scale * squares - evaluation.energy, squares.new_empty((*squares.shape, 0))

    def prepare(self, step: Step, populations: int, device: torch.device) -> Step:
        # The curvature is the only number that is not known before the run.
        if self.needs_curvature:
            return with_levels(step, device)
        unused = torch.zeros(populations, dtype=torch.float64, device=device)
        coefficients = coefficients_of(self.proposal, step, self.exponent, unused)
        return dataclasses.replace(step, coefficients=coefficients)

    def move(self, state: ParticleState, step: Step, rng: Tensor, populations: Populations) -> Move:
        ancestors = state.weights.ancestors
        coefficients = step.coefficients
        if coefficients is None:
            coefficients = self._coefficients(state, step, populations)
        x, log_ratio = propagate(
            state.x,
            state.score,
            ancestors,
            coefficients,
            rng,
            first_population=populations.first_population,
            first_particle=populations.first_particle,
        )
        return Move(x, log_ratio, self.inherited_memory(state))

    def _coefficients(self, state: ParticleState, step: Step, populations: Populations) -> Tensor:
        """Return the coefficients of a step, float64 [P, 3]."""
        if not self.needs_curvature:
            # log Z has the right shape, and the proposal ignores it
            return coefficients_of(self.proposal, step, self.exponent, state.weights.log_z)
        ancestors = state.weights.ancestors
        # The move starts from the ancestors, so the mean is over their curvatures.
        if type(self.proposal) is CurvatureMatched and populations.whole:
            levels = levels_of(step, state.kernel.device)
            return curvature_matched(state.kernel, ancestors, levels, self.exponent)
        curvature = populations.mean(take(state.kernel, ancestors))
        return coefficients_of(self.proposal, step, self.exponent, curvature)

    def energies(
        self, evaluation: Evaluation, state: ParticleState
    ) -> tuple[list[Tensor], list[Tensor]]:
        # The operator reads the energies before the move through the ancestors, so no difference is
        # taken here.
        return [evaluation.energy], [state.energy]
