"""Path values: log-densities of a teacher that has no energy, summed along straight noising paths.

A path has one clean sample x_0 and one draw z of the noise, and its state at the level sigma is x_0 + sigma z. At
every level it is distributed as the states on which a denoiser is trained. At the highest level the density is
nearly a Gaussian, whose log-density follows from the teacher's score and trace. From there the value of each level
adds the log-ratio of the step. It is the mean of two estimates, from the score and the trace at the upper level
and from those at the lower one, whose errors cancel to first order; see `edmfast.targets.path_ratios`.

The values of one level are known up to a constant, so that their mean is set to zero. On the smooth digits (64
levels, two probes for each trace) a value has an error of .4 nats, and of .01 with exact traces. Regression
averages it out. Richardson's extrapolation, as `edmfast.log_density` has it, would remove a bias of .02 nats here.
It is left out, because its weights change from level to level, so that the noise of the probes grows by a tenth
or more.

The single-step targets of the energy-difference loss need one estimate only, `reversal_log_ratio`, where
tau² = s² - u² and D is the denoised x_s:

  log p_u(x_u) - log p_s(x_s) = log N(x_u; x_s + tau² score, kappa tau² I) - log N(x_s; x_u, tau² I),
  score = (D - x_s)/s²,  kappa = 1 + tau² tr(grad score)/d, clamped to [u²/(2 s²), 1.5].

Sources: He et al. 2025, arXiv 2506.05668 (the path-ratio identity); Efron 2011 (second-order Tweedie formula).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from edmfast._internal.generators import generator
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData, spread_of
from edmfast.distill.frozen_teacher import FrozenTeacher
from edmfast.distill.path_probes import PathProbes
from edmfast.models.preconditioning import expand_sigma
from edmfast.targets.path_ratios import (
    log_density_of_gaussian,
    log_ratio_from_above,
    log_ratio_from_below,
)

_KARRAS_RHO = 7.0
_LOWEST, _HIGHEST = 1 / 15, 30.0
"""The levels at the ends of a path, in units of the standard deviation of the data."""
_SEED_STRIDE = 0x9E3779B97F4A7C15
"""The seeds of pools are far from each other and from the seed of the run."""


class PathPool(NamedTuple):
    """A pool of n straight noising paths with L levels, whose states are clean + sigma noise.

    clean and noise: [n, *shape]. values: [L, n] in nats. sigmas: [L], rising. labels: int64 [n], one class label
    for each path, or None.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    values: torch.Tensor
    sigmas: torch.Tensor
    labels: torch.Tensor | None

    def states(
        self, sigma: torch.Tensor, paths: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """Return the states of some paths, [m, *shape], at levels [] or [m]."""
        clean = self.clean[paths]
        return clean + expand_sigma(sigma, clean) * self.noise[paths]


class _Slopes(NamedTuple):
    """The teacher at the states of one level: score [n, *shape] and the trace of its Jacobian, float64 [n]."""

    score: torch.Tensor
    trace: torch.Tensor


def path_levels(config: DistillConfig, data: TrainingData) -> torch.Tensor:
    """Return the rising noise levels of the paths, [L], spaced as those of Karras et al. 2022.

    Raises ValueError for levels that are equal in the dtype of the data, as those of constant data are.
    """
    if config.value_sigmas is None:
        spread = spread_of(data)
        low, high = _LOWEST * spread, _HIGHEST * spread
    else:
        low, high = config.value_sigmas
    ends = low ** (1 / _KARRAS_RHO), high ** (1 / _KARRAS_RHO)
    place = torch.linspace(0, 1, config.value_levels, dtype=torch.float64)
    levels: torch.Tensor = ((ends[0] + place * (ends[1] - ends[0])) ** _KARRAS_RHO).to(data.dtype)
    # the target divides by the difference of the squares of two neighbours
    if not bool((levels[1:] > levels[:-1]).all()):
        raise ValueError(
            f"value_sigmas, from {low:.9g} to {high:.9g}, in {config.value_levels} levels have neighbours that "
            f"are equal in {data.dtype}: take fewer value_levels or levels farther from each other"
        )
    return levels.to(data.device)


@torch.no_grad()
def make_pool(
    data: TrainingData,
    teacher: FrozenTeacher,
    config: DistillConfig,
    index: int,
    between: Callable[[], None],
) -> PathPool:
    """Return pool number `index` of a run, which follows from the seed, the data and the teacher.

    between: called after each level; it may raise an exception to stop.
    """
    count = config.value_paths
    draws = generator((config.seed + _SEED_STRIDE * (index + 1)) % 2**64, data.device)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=draws, dtype=like.dtype, device=like.device)

    drawn = data.draw(index * config.value_refresh, count, draws)
    clean, labels = data.rows(drawn, slice(0, count))
    if labels is not None and config.label_dropout > 0:
        chosen = torch.rand(count, generator=draws, device=data.device)
        labels = torch.where(chosen < config.label_dropout, data.num_classes, labels)
    sigmas = path_levels(config, data)
    values = clean.new_empty(len(sigmas), count)
    pool = PathPool(clean, normal(clean), values, sigmas, labels)
    probes = PathProbes(clean, draws)
    upper: _Slopes | None = None
    total = torch.zeros(count, dtype=torch.float64, device=data.device)
    for level in range(len(sigmas) - 1, -1, -1):
        signs = probes(2 * level), probes(2 * level + 1)
        slopes = _slopes(pool, level, signs, teacher, config.batch_size)
        if upper is None:
            square = _dot(slopes.score, slopes.score)
            dim, sigma = clean[0].numel(), sigmas[level].double()
            total = log_density_of_gaussian(dim, sigma, slopes.trace, square)
        else:
            total = total + _log_ratio(pool, level, upper, slopes)
        # the mean goes first, because it may be large and the values may be float32
        values[level] = total - total.mean()
        upper = slopes
        between()
    return pool


def _slopes(
    pool: PathPool,
    level: int,
    signs: tuple[torch.Tensor, torch.Tensor],
    teacher: FrozenTeacher,
    size: int,
) -> _Slopes:
    """Return the score and its trace at all states of a level, from batches of `size` rows."""
    sigma, (first_probe, second_probe) = pool.sigmas[level], signs
    parts = []
    for first in range(0, len(pool.clean), size):
        rows = slice(first, first + size)
        condition: dict[str, Any] = (
            {} if pool.labels is None else {"class_label": pool.labels[rows]}
        )
        x, probes = pool.states(sigma, rows), (first_probe[rows], second_probe[rows])
        denoised, trace = teacher.denoised_and_mean_trace(x, sigma, condition, probes)
        noise = sigma.double().square()
        parts.append(
            _Slopes((denoised - x) / sigma.square(), (trace.double() - 1) * x[0].numel() / noise)
        )
    scores, traces = zip(*parts, strict=True)
    return _Slopes(torch.cat(scores), torch.cat(traces))


def _log_ratio(pool: PathPool, level: int, upper: _Slopes, lower: _Slopes) -> torch.Tensor:
    """Return log p_u(x_u) - log p_s(x_s) in nats, float64 [n], from level + 1 to level."""
    dim, noise = pool.noise[0].numel(), pool.noise
    u, s = pool.sigmas[level].double(), pool.sigmas[level + 1].double()
    # x_u - x_s = (u - s) noise
    move = (s - u).square() * _dot(noise, noise)
    estimates = [
        formula(
            dim, s, u, end.trace, (u - s) * _dot(noise, end.score), _dot(end.score, end.score), move
        )
        for formula, end in ((log_ratio_from_above, upper), (log_ratio_from_below, lower))
    ]
    return (estimates[0] + estimates[1]) / 2


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner products of the rows of two tensors [n, *shape], float64 [n]."""
    return (a.flatten(1) * b.flatten(1)).sum(1, dtype=torch.float64)


def reversal_log_ratio(
    start: torch.Tensor,
    to: torch.Tensor,
    s: torch.Tensor,
    u: torch.Tensor,
    denoised: torch.Tensor,
    trace: torch.Tensor,
    most: float = 1.5,
) -> torch.Tensor:
    """Return log N(x_u; x_s + tau² score, kappa tau² I) - log N(x_s; x_u, tau² I), [B] in nats.

    start and to: x_s and x_u [B, *shape]. s and u: the levels, [] or [B]. denoised: D(x_s; s). trace:
        tr(dD/dx)/d, [B] or []. most: the upper bound of kappa; the lower one, u²/(2 s²), keeps the variance
        meaningful where the trace is random.
    """
    tau2, elements = s.square() - u.square(), start[0].numel()
    kappa = 1 + tau2 * ((trace - 1) / s.square())
    kappa = torch.maximum(kappa, 0.5 * (u / s).square()).clamp(max=most)
    mean = start + expand_sigma(tau2 / s.square(), start) * (denoised - start)
    forward = (to - mean).square().flatten(1).sum(1) / (2 * kappa * tau2)
    backward = (start - to).square().flatten(1).sum(1) / (2 * tau2)
    return backward - forward - 0.5 * elements * kappa.log()
