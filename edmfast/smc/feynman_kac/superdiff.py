"""SuperDiff: paths that several models agree on (AND), or that the likeliest model leads (OR), without weights.

Each particle carries the log-densities of its path by every model, by Ito's formula along
Δx = 2 delta_t sum_i kappa_i s_i + sqrt(2 delta_t) z, delta_t = tau²/2:

    Δlog p_i = <s_i, Δx> - delta_t |s_i|².

OR: kappa = softmax(T log p_i + log w_i). AND: kappa such that all Δlog p_i are equal, with sum kappa = 1; for two
models kappa_1 = 1/2 - <s_1 - s_2, z>/(sqrt(2 delta_t) |s_1 - s_2|²). Neither samples from the product or the
mixture: use energies for that. Source: Skreta et al. 2024, "The superposition of diffusion models",
arXiv 2412.17762.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.ops import score_gram, standard_normal
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate_scores
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import Step, SuperDiff

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

    models: M energies or denoisers of one noise law. log_shares: log w_i of OR, float64 [M]; None for AND. The
    columns of the memory are the M log-densities in nats, which start from the Gaussian of the first level, then
    the M kappas of the last step.
    """

    models: tuple[object, ...] = ()
    log_shares: Tensor | None = None

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models

    @property
    def memory_columns(self) -> int:
        return 2 * len(self.models)

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
        scores = evaluate_scores(self.models, x, sigma, batch_size=self.batch_size)
        return Evaluation(x.new_zeros(x.shape[:2]), scores)

    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        elements = x[0, 0].numel()
        log_density = x.double().square().flatten(2).sum(2) / (-2 * sigma**2)
        log_density = log_density - elements / 2 * math.log(2 * math.pi * sigma**2)
        count = len(self.models)
        densities = log_density[..., None].expand(*x.shape[:2], count)
        # No step has led to the first level, where all models count alike.
        kappa = torch.full_like(densities, 1 / count)
        return torch.zeros_like(log_density), torch.cat([densities, kappa], 2)

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
        squares = gram.diagonal(dim1=2, dim2=3)
        # This is <s_i, Δx> - delta_t |s_i|² by scalar products that are known already.
        gain = tau2 * (gram @ kappa[..., None])[..., 0] + tau2.sqrt() * along - tau2 / 2 * squares
        memory = torch.cat([densities + gain, kappa], 2)
        return Move(moved, torch.zeros_like(gain[..., 0]), memory)

    def log_densities(self, memory: Tensor) -> Tensor | None:
        return memory[:, :, : len(self.models)].clone()

    def combined_score(self, score: Tensor, memory: Tensor) -> Tensor:
        """Return the sum of the scores, weighted by the kappas of the step that led here."""
        count = len(self.models)
        kappa = memory[:, :, count : 2 * count].to(score.dtype)
        return (_by_model(kappa, score) * score).sum(0)

    def _kappa(self, densities: Tensor, gram: Tensor, along: Tensor, tau2: Tensor) -> Tensor:
        """Return kappa [P, N, M], which sums to 1 over the models."""
        assert isinstance(self.proposal, SuperDiff)
        if self.log_shares is not None:
            return torch.softmax(self.proposal.temperature * densities + self.log_shares, 2)
        # unknowns kappa and c: tau² G kappa + tau n - tau²/2 diag G = c for all models, sum kappa = 1
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
        right = torch.cat([squares / 2 - along / tau2.sqrt(), torch.ones_like(squares[..., :1])], 2)
        # solve_ex does not wait for the device to report singular systems, which the ridge excludes
        solution: Tensor = torch.linalg.solve_ex(system, right[..., None])[0]
        return solution[..., :count, 0]


def _by_model(kappa: Tensor, scores: Tensor) -> Tensor:
    """Return kappa [P, N, M] as factors [M, P, N, 1, ...] of scores [M, P, N, *shape]."""
    return unsqueeze_like(kappa.movedim(2, 0), scores)
