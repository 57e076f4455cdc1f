"""SuperDiff: one path that several models agree on (AND), or that any of them may lead (OR), without weights.

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

from edmfast.ops import score_gram, standard_normal
from edmfast.smc.feynman_kac.evaluate import Evaluation, evaluate_scores
from edmfast.smc.proposals import Step, SuperDiff
from edmfast.smc.step import Law, Moved, Moving, carried

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
class SuperDiffLaw(Law):
    """models: M of one noise law; log_shares: log w_i of OR, None for AND. The columns of the memory are the M
    log-densities in nats, from the start's Gaussian on, then M kappas of the last step."""

    models: tuple[object, ...] = ()
    log_shares: Tensor | None = None

    @property
    def memory_columns(self) -> int:
        """Log-densities, then kappas."""
        return 2 * len(self.models)

    @property
    def scored_models(self) -> tuple[Any, ...]:
        return self.models

    def evaluate(self, x: Tensor, sigma: float | Tensor, rng: Tensor, probe: bool) -> Evaluation:
        scores = evaluate_scores(self.models, x, sigma, batch_size=self.batch_size)
        return Evaluation(x.new_zeros(x.shape[:2]), scores, None)

    def start(self, x: Tensor, sigma: float, found: Evaluation) -> tuple[Tensor, Tensor]:
        elements = x[0, 0].numel()
        log_density = x.double().square().flatten(2).sum(2) / (-2 * sigma**2)
        log_density = log_density - elements / 2 * math.log(2 * math.pi * sigma**2)
        count = len(self.models)
        densities = log_density[..., None].expand(*x.shape[:2], count)
        shares = torch.full_like(densities, 1 / count)
        return torch.zeros_like(log_density), torch.cat([densities, shares], 2)

    def move(self, moving: Moving, step: Step, rng: Tensor) -> Moved:
        count, index = len(self.models), moving.weights.ancestors.long()
        memory = carried(moving.memory[:, :, : self.memory_columns], moving.weights.ancestors)
        densities = memory[:, :, :count]
        x, scores = _rows(moving.x, index), torch.stack([_rows(s, index) for s in moving.score])
        z = standard_normal(
            x,
            rng=rng,
            first_population=self.first_population,
            first_particle=self.first_particle,
        )
        gram, along = score_gram(scores, z)
        # a fill does not wait for the device, as a copy would
        tau2 = step.tau2
        if not isinstance(tau2, Tensor):
            tau2 = torch.full((), tau2, dtype=torch.float64, device=x.device)
        kappa = self._kappa(densities, gram, along, tau2)
        weights = (
            kappa.to(x.dtype).movedim(2, 0).reshape(count, *x.shape[:2], *(1,) * (x.dim() - 2))
        )
        drift = tau2.to(x.dtype) * (weights * scores).sum(0)
        moved = x + drift + tau2.sqrt().to(x.dtype) * z
        own = gram.diagonal(dim1=2, dim2=3)
        gain = tau2 * (gram @ kappa[..., None])[..., 0] + tau2.sqrt() * along - tau2 / 2 * own
        memory = torch.cat([densities + gain, kappa], 2)
        return Moved(moved, torch.zeros_like(gain[..., 0]), memory)

    def log_densities(self, memory: Tensor) -> Tensor | None:
        return memory[:, :, : len(self.models)].clone()

    def guided(self, score: Tensor, memory: Tensor) -> Tensor:
        """By the shares of the step that led here."""
        count = len(self.models)
        shares = memory[:, :, count : 2 * count].to(score.dtype).movedim(2, 0)
        return (shares.reshape(*shares.shape, *(1,) * (score.dim() - 3)) * score).sum(0)

    def _kappa(self, densities: Tensor, gram: Tensor, along: Tensor, tau2: Tensor) -> Tensor:
        """Shares [P, N, M], summing to 1."""
        assert isinstance(self.kernel, SuperDiff)
        if self.log_shares is not None:
            return torch.softmax(self.kernel.temperature * densities + self.log_shares, 2)
        # unknowns kappa and c: tau² G kappa + tau n - tau²/2 diag G = c for all models, sum kappa = 1
        count = gram.shape[-1]
        own = gram.diagonal(dim1=2, dim2=3)
        ridge = _RIDGE * own.sum(2) / count + torch.finfo(torch.float64).tiny
        eye = torch.eye(count, dtype=torch.float64, device=gram.device)
        system = gram.new_zeros(*gram.shape[:2], count + 1, count + 1)
        system[..., :count, :count] = gram + ridge[..., None, None] * eye
        system[..., :count, count] = -1.0
        system[..., count, :count] = 1.0
        right = torch.cat([own / 2 - along / tau2.sqrt(), torch.ones_like(own[..., :1])], 2)
        # solve_ex does not wait for the device to report singular systems, which the ridge excludes
        return torch.linalg.solve_ex(system, right[..., None])[0][..., :count, 0]


def _rows(values: Tensor, index: Tensor) -> Tensor:
    flat = values.flatten(2)
    return flat.gather(1, index[:, :, None].expand(flat.shape)).reshape(values.shape)
