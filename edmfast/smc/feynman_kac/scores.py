"""The Feynman–Kac model of scores without an energy: corrector weights, or a plain sampler as base of steering.

With scores s_i, exponents a_i, S' = sum_i a_i s_i and delta_t = tau²/2,

    x += (1 + eta) delta_t S' + sqrt(2 eta delta_t) z,
    log G = delta_t (|S'|² - sum_i a_i |s_i|²).

The law of the weighted particles tends to the product of the p_i^{a_i} as the steps go to zero, for any
eta >= 0; at a given number of steps it is off by their first order. Annealing, guidance and products are special
cases. Little noise produces few outliers for the weights to find: far out, where all s_i = -x/sigma², the weights
have finite variance for eta > (A - 1)/A only. Source: Skreta et al. 2025, "Feynman–Kac correctors in diffusion",
arXiv 2503.02819.

The moves of a plain sampler may follow the gradient of a reward. With m the added mean and v the variance of the
move, the weight -(|m|² + 2 sqrt(v) <m, z>)/(2 v) keeps the law of the plain sampler. Source: Wu et al. 2023,
"Practical and asymptotically exact conditional sampling in diffusion models", arXiv 2306.17775.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edmfast.ops import propagate, score_gram
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate_scores, in_groups
from edmfast.smc.feynman_kac.pull import log_ratio_without_pull, weighted_sum
from edmfast.smc.populations.exponents import ExponentTable
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import Step, coefficients_of
from edmfast.targets.exponents import Exponent

CORRECTED = (
    "Feynman–Kac corrector weights from scores: exact as the steps go to zero, off by their first order "
    "in tau² otherwise; log Z is up to what the start leaves out"
)
PLAIN = "plain sampler: equal weights, the law of the sampler at these steps; rewards tilt that law exactly"


@dataclass(frozen=True)
class ScoreFeynmanKac(FeynmanKac):
    """A Feynman–Kac model of a product of M models that have scores alone.

    models: M energies or denoisers. exponents: a_i, each a float or float64 [P]. guide: a `Tilted` plain model
    whose reward gradient the moves follow; that gradient takes the place of a second score.
    """

    models: tuple[object, ...] = ()
    exponents: tuple[Exponent, ...] = ()
    guide: Any = None
    table: ExponentTable = field(default_factory=ExponentTable, init=False, repr=False)

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models if self.guide is None else (self.guide,)

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
        """Return the scores, and as energy sum_i a_i |s_i|² - |S'|² [P, N], or 0 where nothing is weighed."""
        if self.guide is not None:

            def call(guide: Any, rows: Tensor) -> tuple[Tensor, ...]:
                pair: tuple[Tensor, Tensor] = guide.score_and_pull(rows, sigma)
                return pair

            score_and_pull = torch.stack(in_groups(call, [self.guide], [x], self.batch_size))
            return Evaluation(x.new_zeros(x.shape[:2]), score_and_pull)
        scores = evaluate_scores(self.models, x, sigma, batch_size=self.batch_size)
        if not self._weighs:
            return Evaluation(x.new_zeros(x.shape[:2]), scores)
        gram, _ = score_gram(scores)
        exponents = self._exponents(x)
        separate = (exponents * gram.diagonal(dim1=2, dim2=3)).sum(2)
        together = (exponents * (gram @ exponents[..., None])[..., 0]).sum(2)
        return Evaluation(separate - together, scores)

    @property
    def _weighs(self) -> bool:
        return not is_plain(self.exponents)

    def _exponents(self, like: Tensor) -> Tensor:
        """Return a_i as float64 [P, 1, M] on the device of like [P, ...]."""
        return self.table.prepare(self.exponents, like.shape[0], like.device)[:, None]

    def prepare(self, step: Step, populations: int, device: torch.device) -> Step:
        unused = torch.zeros(populations, dtype=torch.float64, device=device)
        numbers = coefficients_of(self.proposal, step, self.exponent, unused)
        exponents = self.table.prepare(self.exponents, populations, device)
        # A pull moves the particles by the same drift as the score beside it.
        scores = exponents if self.guide is None else exponents.expand(-1, 2)
        return dataclasses.replace(
            step, coefficients=torch.cat([numbers[:, :1] * scores, numbers[:, 1:]], 1)
        )

    def combined_score(self, score: Tensor, memory: Tensor) -> Tensor:
        return weighted_sum(self.exponents, score)

    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        # The weight of the start is unknown without an energy, so the particles start from equal
        # weights.
        zeros = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        return zeros, zeros.new_empty((*zeros.shape, 0))

    def move(self, state: ParticleState, step: Step, rng: Tensor, populations: Populations) -> Move:
        ancestors = state.weights.ancestors
        coefficients = step.coefficients
        assert coefficients is not None, "a step of scores needs its coefficients prepared"
        x, log_ratio = propagate(
            state.x,
            list(state.score),
            ancestors,
            coefficients,
            rng,
            first_population=populations.first_population,
            first_particle=populations.first_particle,
        )
        if self._weighs:
            # The corrector's weight is that of the state before the move, which is the ancestor's.
            log_ratio = (-step.tau2 / 2) * take(state.energy, ancestors)
        elif self.guide is not None:
            drift, v_m = coefficients[:, :1], coefficients[:, -2:-1]
            log_ratio = log_ratio_without_pull(state, drift, v_m, rng, populations)
        else:
            # the moves of the plain sampler define its law, whatever their kernel
            return Move(x, None, self.inherited_memory(state))
        return Move(x, log_ratio, self.inherited_memory(state))


def is_plain(exponents: Sequence[Exponent]) -> bool:
    """Return whether there is a single model of exponent 1, so that nothing is weighed."""
    return len(exponents) == 1 and not isinstance(exponents[0], Tensor) and exponents[0] == 1.0
