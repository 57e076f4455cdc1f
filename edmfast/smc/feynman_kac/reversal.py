"""The Feynman–Kac model of reversal-matched weights: a plain denoiser weighs as well as an energy.

For every pair of states Bayes' rule gives log p_u(x_u) - log p_s(x_s) = log q(x_u | x_s) - log N(x_s; x_u, tau² I)
with the reversal q. The second-order Tweedie formula approximates it by

    q ≈ N(x_s + tau² s, kappa tau² I),    kappa(x_s) = 1 + tau² tr(grad s)/d.

For a target prod_i p_i^{a_i} the proposal is the normalised product of the q_i^{a_i}, and then everything that
depends on x_u cancels in the weight. It is known at x_s, before the move, so that particles are weighed and
resampled first (a fully adapted particle filter). With A = sum a_i, P = sum a_i/kappa_i and
m = sum (a_i/kappa_i) s_i/P:

    M = N(x_s + tau² m, (tau²/P) I),
    log G = -(d/2) [sum a_i log kappa_i + log(P/A)] - (tau²/2) [sum (a_i/kappa_i) |s_i|² - P |m|²].

For one model log G = -(d/2) (gamma - 1) log kappa. The weights are exact for isotropic Gaussians. In general they
are off by the anisotropy and the higher moments of q, an error that falls as tau² over a run. A particle at which
P < A/2 uses one kappa for all models, and with negative exponents the gain of a weight is bounded: see
`edmfast.ops.reversal`.

Sources: He et al. 2025, arXiv 2506.05668 (the identity of path ratios); the proposal and the weights follow from
it by the second-order Tweedie formula.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edmfast.ops import propagate, reversal
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.evaluate import Evaluation, in_groups
from edmfast.smc.feynman_kac.levels import levels_of, with_levels
from edmfast.smc.feynman_kac.pull import log_ratio_without_pull, weighted_sum
from edmfast.smc.feynman_kac.signs import random_signs
from edmfast.smc.feynman_kac.terms import Terms, evaluate_terms
from edmfast.smc.populations.exponents import ExponentTable
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import ReversalMatched, Step
from edmfast.targets.exponents import Exponent


@dataclass(frozen=True)
class ReversalFeynmanKac(FeynmanKac):
    """A Feynman–Kac model of a product of M models, weighed by their matched reversals.

    models: M energies or denoisers of exponent 1. exponents: a_i, each a float or float64 [P]. exact: take the
    exact traces of the models. guide: a `Tilted` target whose reward gradient the moves follow; that gradient is
    one more entry of the scores. with_energy: all models have energies, which `evaluate` returns. delayed: weigh
    a step after its move, as correctors need it, since they leave the law of a level without that weight
    invariant.

    The kernel [P, N, M + 2] of a particle holds the M drifts, v_M and v_L of its next move. Where the weight is
    delayed, log G is one more column.
    """

    models: tuple[object, ...] = ()
    exponents: tuple[Exponent, ...] = ()
    exact: bool = False
    guide: Any = None
    with_energy: bool = False
    delayed: bool = False
    table: ExponentTable = field(default_factory=ExponentTable, init=False, repr=False)

    @property
    def has_energy(self) -> bool:
        return self.with_energy

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models if self.guide is None else (*self.models, self.guide)

    @property
    def probed_models(self) -> tuple[Any, ...]:
        return self.models

    @property
    def evaluates_after_correction(self) -> bool:
        return True

    @property
    def _kernel(self) -> ReversalMatched:
        assert isinstance(self.proposal, ReversalMatched)
        return self.proposal

    def probes_at(self, index: int) -> int:
        return 0 if self.exact else self._kernel.probes_at(index)

    def for_correctors(self) -> FeynmanKac:
        return dataclasses.replace(self, delayed=True)

    def prepare(self, step: Step, populations: int, device: torch.device) -> Step:
        table = self._kernel.kappa
        kappa = None if table is None else self._kernel.kappa_at(step, device)
        return dataclasses.replace(with_levels(step, device), kappa=kappa)

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
        """Return the scores, the energy (0 without one), and the kernel and weight of the step that follows."""
        signs = random_signs(x, probes, rng, populations) if probes > 0 and step else None
        terms = evaluate_terms(
            self.models,
            x,
            sigma,
            probes=signs,
            exact=self.exact and step is not None,
            batch_size=self.batch_size,
        )
        energy, scores = self._energy(x, terms.energies), terms.scores
        if self.guide is not None:
            scores = torch.cat([scores, self._pull(x, sigma)[None]])
        if step is None:
            return Evaluation(energy, scores)
        coefficients, increment = self._match(x, terms, signs, step)
        if not self.delayed:
            return Evaluation(energy, scores, coefficients, increment)
        return Evaluation(energy, scores, torch.cat([coefficients, increment[..., None]], 2))

    def _match(
        self, x: Tensor, terms: Terms, signs: Tensor | None, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Return the coefficients [P, N, M + 2] and the log-weights [P, N] of a step, both float64."""
        levels = levels_of(step, x.device)
        if terms.products:
            sources: dict[str, Any] = {"products": list(terms.products), "probes": signs}
        elif terms.traces is not None:
            sources = {"traces": terms.traces}
        else:
            sources = {"traces": self._table(x, step, levels)}
        exponents = self.table.prepare(self.exponents, x.shape[0], x.device)
        coefficients, log_weight = reversal(list(terms.scores), exponents, levels, **sources)
        return coefficients, log_weight

    def _table(self, x: Tensor, step: Step, levels: Tensor) -> Tensor:
        """Return the traces [M, P, N] that the kappa table of a calibration stands for."""
        kappa = self._kernel.kappa_at(step, x.device)
        tau2 = levels[0].square() - levels[1].square()
        trace = (kappa - 1) * (x[0, 0].numel() / tau2)
        return trace.expand(len(self.models), *x.shape[:2]).contiguous()

    def _energy(self, x: Tensor, energies: Tensor | None) -> Tensor:
        if not self.with_energy or energies is None:
            return x.new_zeros(x.shape[:2])
        return weighted_sum(self.exponents, energies)

    def _factor(self, a: Exponent, like: Tensor) -> Tensor:
        """Return an exponent as float64 [P] on the device of like [P, ...]."""
        return torch.ones(like.shape[0], dtype=torch.float64, device=like.device) * a

    def _pull(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the gradient of the log of the reward's tilt, like x."""

        def call(guide: Any, rows: Tensor) -> tuple[Tensor, ...]:
            return (guide.score_and_pull(rows, sigma)[1],)

        (pull,) = in_groups(call, [self.guide], [x], self.batch_size)
        return pull

    def combined_score(self, score: Tensor, memory: Tensor) -> Tensor:
        return weighted_sum(self.exponents, score)

    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        # With energies log G_0 = -U + A |x|²/(2 sigma²). Here every p_i is N(0, sigma² I) at the first level, and
        # the constants of these densities are left.
        constant = -0.5 * x[0, 0].numel() * math.log(2 * math.pi * sigma**2)
        log_weights = (constant * self._factor(self.exponent, x))[:, None].expand(x.shape[:2])
        log_weights = log_weights.contiguous()
        return log_weights, log_weights.new_empty((*x.shape[:2], 0))

    def move(self, state: ParticleState, step: Step, rng: Tensor, populations: Populations) -> Move:
        ancestors, count = state.weights.ancestors, len(self.models)
        coefficients = state.kernel[..., : count + 2]
        if self.guide is not None:
            # a tilt exp(f) moves the mean of a Gaussian by its variance times grad f
            v_m = coefficients[..., count : count + 1]
            coefficients = torch.cat([coefficients[..., :count], v_m, coefficients[..., count:]], 2)
        x, _ = propagate(
            state.x,
            list(state.score),
            ancestors,
            coefficients.contiguous(),
            rng,
            first_population=populations.first_population,
            first_particle=populations.first_particle,
        )
        log_ratio = take(state.kernel[..., -1], ancestors) if self.delayed else None
        if self.guide is not None:
            v_m = take(state.kernel[..., count], ancestors)
            pulled = log_ratio_without_pull(state, v_m, v_m, rng, populations)
            log_ratio = pulled if log_ratio is None else log_ratio + pulled
        return Move(x, log_ratio, self.inherited_memory(state))

    def energies(
        self, evaluation: Evaluation, state: ParticleState
    ) -> tuple[list[Tensor], list[Tensor]]:
        # the weight of the step holds the change of the target already
        return [], []
