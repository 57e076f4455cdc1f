"""Laws for models without an energy: Feynman-Kac corrector weights, and plain sampling as the base of steering.

With scores s_i, exponents a_i, S' = sum_i a_i s_i and delta_t = tau²/2,

    x += (1 + eta) delta_t S' + sqrt(2 eta delta_t) z,
    log G = delta_t (|S'|² - sum_i a_i |s_i|²),

the law of which tends to the product of the p_i^{a_i} as the steps go to zero, for any eta >= 0; at a given
number of steps it is off by their first order. Annealing, guidance and products are the cases. Little noise makes
few outliers for the weights to find: far out, where all s_i = -x/sigma², the weights have finite variance for
eta > (A - 1)/A only. Source: Skreta
et al. 2025, "Feynman-Kac correctors in diffusion", arXiv 2503.02819.

The moves of a plain sampler may follow the gradient of a reward: with m the added mean and v the variance of the
move, the law of the plain sampler is kept by the weight -(|m|² + 2 sqrt(v) <m, z>)/(2 v). Source: Wu et al. 2023,
"Practical and asymptotically exact conditional sampling in diffusion models", arXiv 2306.17775.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast.ops import propagate, score_gram, standard_normal
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate_scores, in_groups
from edmfast.smc.feynman_kac.exponent import Exponent, like_population
from edmfast.smc.proposals import Step, coefficients_of
from edmfast.smc.step import Law, Moved, Moving, carried

CORRECTED = (
    "Feynman-Kac corrector weights from scores: exact as the steps go to zero, off by their first order "
    "in tau² otherwise; log Z is up to what the start leaves out"
)
PLAIN = "plain sampler: equal weights, the law of the sampler at these steps; rewards tilt that law exactly"


@dataclass(frozen=True)
class ScoreLaw(Law):
    """models: M energies or denoisers of one target; exponents: a_i, each a float or float64 [P].

    guide: a `Tilted` plain model whose pull the moves follow; it takes the place of a second score.
    """

    models: tuple[object, ...] = ()
    exponents: tuple[Exponent, ...] = ()
    guide: Any = None

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models if self.guide is None else (self.guide,)

    def evaluate(self, x: Tensor, sigma: float | Tensor, rng: Tensor, probe: bool) -> Evaluation:
        """energy: sum_i a_i |s_i|² - |S'|² [P, N], what weighs nothing for one model of exponent 1."""
        if self.guide is not None:

            def call(part: Any, rows: Tensor) -> tuple[Tensor, ...]:
                found: tuple[Tensor, Tensor] = part.score_and_pull(rows, sigma)
                return found

            pair = torch.stack(in_groups(call, [self.guide], [x], self.batch_size))
            return Evaluation(x.new_zeros(x.shape[:2]), pair, None)
        scores = evaluate_scores(self.models, x, sigma, batch_size=self.batch_size)
        if not self._weighs:
            return Evaluation(x.new_zeros(x.shape[:2]), scores, None)
        gram, _ = score_gram(scores)
        table = self._table(x)
        own = (table * gram.diagonal(dim1=2, dim2=3)).sum(2)
        return Evaluation(own - (table * (gram @ table[..., None])[..., 0]).sum(2), scores, None)

    @property
    def _weighs(self) -> bool:
        return not is_plain(self.exponents)

    def _table(self, like: Tensor) -> Tensor:
        """a_i as float64 [P, 1, M]."""
        ones = torch.ones(like.shape[0], dtype=torch.float64, device=like.device)
        return torch.stack([ones * a for a in self.exponents], 1)[:, None]

    def guided(self, score: Tensor, memory: Tensor) -> Tensor:
        total = torch.zeros_like(score[0])
        for a, one in zip(self.exponents, score, strict=self.guide is None):
            scale = like_population(a, one)
            total = total + (scale.to(one.dtype) if isinstance(scale, Tensor) else scale) * one
        return total

    def start(self, x: Tensor, sigma: float, found: Evaluation) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        return zeros, zeros.new_empty((*zeros.shape, 0))

    def move(self, moving: Moving, step: Step, rng: Tensor) -> Moved:
        ancestors = moving.weights.ancestors
        # log_z has the right shape, and a kernel that probes nothing does not look at it
        numbers = coefficients_of(self.kernel, step, self.exponent, moving.weights.log_z)
        drift, v_m, v_l = numbers.unbind(1)
        table = self._table(moving.x)[:, 0].expand(-1, len(moving.score))
        coefficients = torch.cat([drift[:, None] * table, torch.stack([v_m, v_l], 1)], 1)
        x, ratio = propagate(
            moving.x,
            list(moving.score),
            ancestors,
            coefficients,
            rng,
            first_population=self.first_population,
            first_particle=self.first_particle,
        )
        if self._weighs:
            ratio = (-step.tau2 / 2) * moving.energy.gather(1, ancestors.long())
        elif self.guide is not None:
            ratio = self._against_pull(moving, drift, v_m, rng)
        else:
            # the sampler's own moves are the law here, whatever their kernel
            ratio = torch.zeros_like(ratio)
        own = moving.memory[:, :, : self.memory_columns]
        return Moved(x, ratio, carried(own, ancestors))

    def _against_pull(self, moving: Moving, drift: Tensor, v_m: Tensor, rng: Tensor) -> Tensor:
        """log of the plain move's density over that of the guided one, [P, N]."""
        x, pull = moving.x, moving.score[1].flatten(2)
        index = moving.weights.ancestors.long()[:, :, None].expand(pull.shape)
        z = standard_normal(
            x,
            rng=rng,
            first_population=self.first_population,
            first_particle=self.first_particle,
        )
        gram, along = score_gram(pull.gather(1, index)[None], z.flatten(2))
        size, slope = drift[:, None], drift[:, None] * v_m.sqrt()[:, None]
        spread = size.square() * gram[..., 0, 0] + 2 * slope * along[..., 0]
        return -spread / (2 * v_m[:, None])


def is_plain(exponents: Sequence[Exponent]) -> bool:
    """Whether there is one model of exponent 1: nothing to weigh."""
    return len(exponents) == 1 and not isinstance(exponents[0], Tensor) and exponents[0] == 1.0
