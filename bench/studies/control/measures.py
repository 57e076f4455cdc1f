"""Measure controlled samples of a task against its exact answer.

A power p^n or a product of mixtures is an exact mixture again. For other exponents gamma the answer comes from
importance sampling from the mixture with the covariances C_k/gamma, whose weights hardly vary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.rivals.control import Outcome
from bench.studies.control.comparison import GROUP
from bench.studies.control.laws import Size
from bench.studies.control.tasks import SIGMA_MIN, Task
from edmfast.analytic import MixtureOfGaussians
from edmfast.diagnostics import frechet_distance, sliced_wasserstein

COLUMNS = {
    "tv": "TV of mean",
    "tv_run": "TV per run",
    "tv_class": "TV of classes",
    "log_z": "log Z error",
    "gap": "log density",
    "frechet": "Fréchet",
    "sliced": "sliced",
    "variance": "variance",
    "ancestors": "ancestors %",
}
NOTES = (
    f"TV: total variation of the masses of components; of mean: of {GROUP} runs; log Z error and log density in",
    "nats, the latter against its mean over exact draws; Fréchet and sliced: distances to exact draws in pixels,",
    "variance: that of the log-weights in nats², summed over the steps",
)
_IMPORTANCE_DRAWS = 50_000


class Measures:
    """The measures of one task, called with an outcome. draws: number of exact draws to compare with."""

    def __init__(self, task: Task, draws: int) -> None:
        self.task = task
        if len(task.models) > 1:
            first, second = task.models
            self._pairs = first.product(second, SIGMA_MIN)
            self._exact(self._pairs, self._pairs.weights, draws)
        elif task.exponents[0].is_integer():
            power = task.models[0].power(int(task.exponents[0]), SIGMA_MIN)
            self._exact(power, power.factor_masses[0], draws)
        else:
            self._by_importance(draws)
        self.log_density = float(self._target(self.draws).mean())

    def _exact(self, answer: MixtureOfGaussians, masses: Tensor, draws: int) -> None:
        self.masses, self.log_z = masses, answer.log_normaliser
        self.draws = answer.sample(draws, seed=1)

    def _by_importance(self, draws: int) -> None:
        gamma, model = self.task.exponents[0], self.task.models[0].at(SIGMA_MIN)
        log_dets = torch.linalg.slogdet(model.covariances)[1]
        log_weights = gamma * model.weights.log() + 0.5 * (1 - gamma) * log_dets
        covariances = model.covariances / gamma
        proposal = MixtureOfGaussians(model.means, covariances, log_weights.softmax(0))
        x = proposal.sample(_IMPORTANCE_DRAWS, seed=1)
        ratios = gamma * model.log_prob(x) - proposal.log_prob(x)
        self.log_z = float(ratios.logsumexp(0)) - math.log(len(x))
        self.masses = ratios.softmax(0) @ model.responsibilities(x)
        self.draws = x[_systematic(ratios.softmax(0), draws)]

    def _target(self, x: Tensor) -> Tensor:
        """Return sum_i a_i log p_i at the last level, [B]."""
        pairs = zip(self.task.exponents, self.task.models, strict=True)
        return torch.stack([a * model.log_prob(x, SIGMA_MIN) for a, model in pairs]).sum(0)

    def _responsibilities(self, x: Tensor) -> Tensor:
        if len(self.task.models) > 1:
            return self._pairs.responsibilities(x)
        return self.task.models[0].responsibilities(x, SIGMA_MIN)

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        """Return numbers for each group of populations, or for each population."""
        shape, rows = outcome.x.shape[:2], outcome.x.flatten(0, 1)
        weights = outcome.log_weights.softmax(1)
        shares = self._responsibilities(rows).view(*shape, -1)
        masses = (weights[..., None] * shares).sum(1)
        groups = masses.split(GROUP)
        numbers = {
            "tv": torch.stack([self._variation(group.mean(0)) for group in groups]),
            "tv_run": self._variation(masses),
            "gap": (weights * self._target(rows).view(shape)).sum(1) - self.log_density,
        }
        model = self.task.models[0]
        if len(self.task.models) == 1 and model.classes is not None:
            errors = [model.by_class(group.mean(0) - self.masses) for group in groups]
            numbers["tv_class"] = torch.stack([0.5 * error.abs().sum() for error in errors])
        if outcome.log_z is not None:
            numbers["log_z"] = outcome.log_z - self.log_z
        return numbers | self._distances(outcome.x, weights)

    def _variation(self, masses: Tensor) -> Tensor:
        return 0.5 * (masses - self.masses).abs().sum(-1)

    def _distances(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        frechet, sliced = [], []
        for group, its_weights in zip(x.split(GROUP), weights.split(GROUP), strict=True):
            pairs = zip(group, its_weights, strict=True)
            # one draw for each particle of a population
            drawn = torch.cat([states[_systematic(w, len(w))] for states, w in pairs])
            frechet.append(frechet_distance(drawn, self.draws))
            sliced.append(sliced_wasserstein(drawn, self.draws))
        return {"frechet": torch.tensor(frechet), "sliced": torch.tensor(sliced)}

    def of_draws(self, size: Size) -> str:
        """Return what exact draws have in the columns of distances, for as many draws as a group has particles."""
        count = min(size.particles * GROUP, len(self.draws) // 2)
        mine, others = self.draws[::2][:count], self.draws[1::2]
        near, line = frechet_distance(mine, others), sliced_wasserstein(mine, others)
        return (
            f"{count} exact draws have a Fréchet distance of {near:.2g} and a sliced one of {line:.2g} to "
            f"{len(others)} others"
        )


def _systematic(weights: Tensor, count: int) -> Tensor:
    """Return count indices, drawn systematically with normalised weights [N]."""
    points = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    chosen = torch.searchsorted(weights.cumsum(0), points, right=True)
    return chosen.clamp(max=len(weights) - 1)
