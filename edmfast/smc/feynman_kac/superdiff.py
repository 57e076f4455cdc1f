"""SuperDiff: paths that several models agree on (AND), or that the likeliest model leads (OR), without weights.

Each particle carries the log-densities of its path by every model, by Ito's formula along
Δx = 2 delta_t sum_i kappa_i s_i + sqrt(2 delta_t) z, delta_t = tau²/2:

    Δlog p_i = <s_i, Δx> - delta_t |s_i|².

With density="path" the differences come from the scores and traces at both ends of the step, by the formulas of
`edmfast.targets.path_ratios`, and the start from a Gaussian with the mean and variance of the model. Itô's formula
is off by the fluctuations of <Δx, (grad s) Δx>, which are large in many dimensions. AND then also closes the gaps
between the log-densities that earlier steps have left, by at most the noise of a step.

OR: kappa = softmax(T log p_i + log w_i). AND: kappa such that all Δlog p_i are equal, with sum kappa = 1; for two
models kappa_1 = 1/2 - <s_1 - s_2, z>/(sqrt(2 delta_t) |s_1 - s_2|²). Neither samples from the product or the
mixture: use energies for that. Source: Skreta et al. 2024, "The superposition of diffusion models",
arXiv 2412.17762.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.ops import score_gram, standard_normal
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate_scores
from edmfast.smc.feynman_kac.signs import random_signs
from edmfast.smc.feynman_kac.terms import evaluate_terms
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import Step, SuperDiff
from edmfast.targets.path_ratios import (
    log_density_of_gaussian,
    log_ratio_from_above,
    log_ratio_from_below,
)

SUPERPOSED_AND = (
    "SuperDiff AND: no weights; paths along which all models' densities change alike, which is not the law of "
    "the product"
)
SUPERPOSED_OR = (
    "SuperDiff OR: no weights; paths led by the model of highest density, the law of the mixture only up to "
    "errors of the densities along paths"
)
_RIDGE = 1e-9


@dataclass(frozen=True)
class SuperDiffFeynmanKac(FeynmanKac):
    """A Feynman–Kac model that superposes M models without weights.

    models: M energies or denoisers of one noise law. exact: all models have exact traces. log_shares: log w_i of
    OR, float64 [M]; None for AND. The columns of the memory are the M log-densities in nats, which start from the
    Gaussian of the first level, then the M kappas of the last step. With density="path" the kernel of a particle
    holds the M traces tr(grad s_i) at its state.
    """

    models: tuple[object, ...] = ()
    exact: bool = False
    log_shares: Tensor | None = None

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models

    @property
    def memory_columns(self) -> int:
        return 2 * len(self.models)

    @property
    def _kernel(self) -> SuperDiff:
        assert isinstance(self.proposal, SuperDiff)
        return self.proposal

    @property
    def _along_path(self) -> bool:
        return self._kernel.density == "path"

    def probes_at(self, index: int) -> int:
        return self._kernel.probes if self._along_path and not self.exact else 0

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
        exact = self._along_path and self.exact
        if probes == 0 and not exact:
            scores = evaluate_scores(self.models, x, sigma, batch_size=self.batch_size)
            return Evaluation(x.new_zeros(x.shape[:2]), scores)
        signs = None if exact else random_signs(x, probes, rng, populations)
        terms = evaluate_terms(
            self.models, x, sigma, probes=signs, exact=exact, batch_size=self.batch_size
        )
        traces = _mean_traces(terms.products, signs) if terms.traces is None else terms.traces
        return Evaluation(x.new_zeros(x.shape[:2]), terms.scores, traces.movedim(0, 2).contiguous())

    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        elements = x[0, 0].numel()
        count = len(self.models)
        if evaluation.kernel is None:
            log_density = x.double().square().flatten(2).sum(2) / (-2 * sigma**2)
            log_density = log_density - elements / 2 * math.log(2 * math.pi * sigma**2)
            densities = log_density[..., None].expand(*x.shape[:2], count)
        else:
            squares = score_gram(evaluation.score)[0].diagonal(dim1=2, dim2=3)
            level = torch.full_like(squares[..., :1], sigma)
            densities = log_density_of_gaussian(elements, level, evaluation.kernel, squares)
        # No step has led to the first level, where all models count alike.
        kappa = torch.full_like(densities, 1 / count)
        return torch.zeros_like(densities[..., 0]), torch.cat([densities, kappa], 2)

    def move(self, state: ParticleState, step: Step, rng: Tensor, populations: Populations) -> Move:
        count, ancestors = len(self.models), state.weights.ancestors
        densities = self.inherited_memory(state)[:, :, :count]
        x = take(state.x, ancestors)
        scores = torch.stack([take(score, ancestors) for score in state.score])
        z = standard_normal(
            x,
            rng=rng,
            first_population=populations.first_population,
            first_particle=populations.first_particle,
        )
        gram, along = score_gram(scores, z)
        tau2 = step.tau2
        if not isinstance(tau2, Tensor):
            # a fill does not wait for the device, as a copy would
            tau2 = torch.full((), tau2, dtype=torch.float64, device=x.device)
        kappa = self._kappa(densities, gram, along, tau2)
        drift = tau2.to(x.dtype) * (_by_model(kappa.to(x.dtype), scores) * scores).sum(0)
        moved = x + drift + tau2.sqrt().to(x.dtype) * z
        if not self._along_path:
            squares = gram.diagonal(dim1=2, dim2=3)
            # This is <s_i, Δx> - delta_t |s_i|² by scalar products that are known already.
            gain = tau2 * (gram @ kappa[..., None])[..., 0] + tau2.sqrt() * along
            densities = densities + gain - tau2 / 2 * squares
        memory = torch.cat([densities, kappa], 2)
        return Move(moved, torch.zeros_like(densities[..., 0]), memory)

    def remember(
        self, move: Move, evaluation: Evaluation, state: ParticleState, step: Step
    ) -> Tensor:
        """Return the memory with the log-densities of the new states, where they need the scores there."""
        if not self._along_path:
            return move.memory
        count, ancestors = len(self.models), state.weights.ancestors
        scores = torch.stack([take(score, ancestors) for score in state.score])
        shift = move.x - take(state.x, ancestors)
        size = score_gram(shift[None])[0][..., 0]
        s, u = (_as_float64(level, shift) for level in (step.s, step.u))

        def gain(formula: Callable[..., Tensor], scores: Tensor, traces: Tensor) -> Tensor:
            gram, along = score_gram(scores, shift)
            squares = gram.diagonal(dim1=2, dim2=3)
            return formula(shift[0, 0].numel(), s, u, traces, along, squares, size)

        gained = gain(log_ratio_from_above, scores, take(state.kernel, ancestors))
        if evaluation.kernel is not None:
            share = self._share_of_lower_end
            below = gain(log_ratio_from_below, evaluation.score, evaluation.kernel)
            gained = (1 - share) * gained + share * below
        return torch.cat([move.memory[..., :count] + gained, move.memory[..., count:]], 2)

    @property
    def _share_of_lower_end(self) -> float:
        """The weight of the estimate from the lower end of a step: 1/2 for exact traces, less with their noise.

        The estimate from the upper end hardly depends on the trace, since the noise of the move acts as a probe of
        its own. The mean with K probes besides has the least variance for this weight.
        """
        probes = self._kernel.probes
        return 0.5 if self.exact else probes / (2 * (probes + 1))

    def log_densities(self, memory: Tensor) -> Tensor | None:
        return memory[:, :, : len(self.models)].clone()

    def combined_score(self, score: Tensor, memory: Tensor) -> Tensor:
        """Return the sum of the scores, weighted by the kappas of the step that led here."""
        count = len(self.models)
        kappa = memory[:, :, count : 2 * count].to(score.dtype)
        return (_by_model(kappa, score) * score).sum(0)

    def _kappa(self, densities: Tensor, gram: Tensor, along: Tensor, tau2: Tensor) -> Tensor:
        """Return kappa [P, N, M], which sums to 1 over the models."""
        if self.log_shares is not None:
            return torch.softmax(self._kernel.temperature * densities + self.log_shares, 2)
        # unknowns kappa and c: tau² G kappa + tau n - tau²/2 diag G = c - gap for all models, sum kappa = 1
        count = gram.shape[-1]
        squares = gram.diagonal(dim1=2, dim2=3)
        # Where the models agree G is singular, and the ridge selects equal kappas; all scores may
        # be 0.
        ridge = _RIDGE * squares.sum(2) / count + torch.finfo(torch.float64).tiny
        eye = torch.eye(count, dtype=torch.float64, device=gram.device)
        system = gram.new_zeros(*gram.shape[:2], count + 1, count + 1)
        system[..., :count, :count] = gram + ridge[..., None, None] * eye
        system[..., :count, count] = -1.0
        system[..., count, :count] = 1.0
        aims = squares / 2 - along / tau2.sqrt()
        if self._along_path:
            aims = aims - _gaps(densities, gram, tau2) / tau2
        right = torch.cat([aims, torch.ones_like(squares[..., :1])], 2)
        # solve_ex does not wait for the device to report singular systems, which the ridge excludes
        solution: Tensor = torch.linalg.solve_ex(system, right[..., None])[0]
        return solution[..., :count, 0]


def _gaps(densities: Tensor, gram: Tensor, tau2: Tensor) -> Tensor:
    """Return by how much the log-density of each model exceeds their mean, float64 [P, N, M], within bounds.

    A step that closes a larger gap would move a particle by more than its noise, where the models nearly agree.
    """
    apart = gram.diagonal(dim1=2, dim2=3) - 2 * gram.mean(3) + gram.mean((2, 3))[..., None]
    most = (tau2 * apart.clamp_min(0)).sqrt()
    gaps = densities - densities.mean(2, keepdim=True)
    return torch.minimum(torch.maximum(gaps, -most), most)


def _mean_traces(products: Sequence[Tensor], signs: Tensor | None) -> Tensor:
    """Return the mean over probes of <v, (grad s) v>, float64 [M, P, N], from M tensors [P, N, K, *shape]."""
    assert signs is not None
    v = signs.double()
    return torch.stack([(part.double() * v).flatten(3).sum(3).mean(2) for part in products])


def _as_float64(level: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(level, Tensor):
        return level.double()
    # a fill does not wait for the device, as a copy would
    return torch.full((), level, dtype=torch.float64, device=like.device)


def _by_model(kappa: Tensor, scores: Tensor) -> Tensor:
    """Return kappa [P, N, M] as factors [M, P, N, 1, ...] of scores [M, P, N, *shape]."""
    return unsqueeze_like(kappa.movedim(2, 0), scores)
