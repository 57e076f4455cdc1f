"""Path values: log-densities of a teacher that has no energy, summed along noising paths.

A path starts at a clean sample and adds noise from the lowest level to the highest, where the density is that of a
Gaussian with the mean and variance of the data. Bayes' rule links the log-densities at two levels s > u, and the
reversal of the teacher replaces the true conditional density of x_u (tau² = s² - u², score s(x_s) = (D - x_s)/s²):

  log p_u(x_u) = log p_s(x_s) + log N(x_u; x_s + tau² s(x_s), kappa tau² I) - log N(x_s; x_u, tau² I),
  kappa = 1 + tau² tr(grad s(x_s))/d, clamped to [u²/(2 s²), 1.5].

The values of one level are known up to a constant, so that their mean is set to zero. Each value has an error of
its own, by the steps and by the noise of the probes, which regression averages out.

Sources: He et al. 2025, arXiv 2506.05668 (the path-ratio identity); Efron 2011 (second-order Tweedie formula).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from edmfast._internal.generators import generator
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.distill.frozen_teacher import FrozenTeacher

_KARRAS_RHO = 7.0
_LOWEST, _HIGHEST = 1 / 15, 30.0
"""The levels at the ends of a path, in units of the standard deviation of the data."""
_SEED_STRIDE = 0x9E3779B97F4A7C15
"""The seeds of pools are far from each other and from the seed of the run."""


class PathPool(NamedTuple):
    """A pool of n noising paths of L levels: states [L, n, *shape], values [L, n] in nats, rising sigmas [L].

    labels: int64 [n], one class label for each path, or None.
    """

    states: torch.Tensor
    values: torch.Tensor
    sigmas: torch.Tensor
    labels: torch.Tensor | None


def path_levels(config: DistillConfig, samples: torch.Tensor) -> torch.Tensor:
    """Return the rising noise levels of the paths, [L], spaced as those of Karras et al. 2022."""
    if config.value_sigmas is None:
        spread = float(samples.double().std(correction=0))
        low, high = _LOWEST * spread, _HIGHEST * spread
    else:
        low, high = config.value_sigmas
    ends = low ** (1 / _KARRAS_RHO), high ** (1 / _KARRAS_RHO)
    place = torch.linspace(0, 1, config.value_levels, dtype=torch.float64)
    levels: torch.Tensor = (ends[0] + place * (ends[1] - ends[0])) ** _KARRAS_RHO
    return levels.to(device=samples.device, dtype=samples.dtype)


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
    samples, count = data.samples, config.value_paths
    draws = generator((config.seed + _SEED_STRIDE * (index + 1)) % 2**64, samples.device)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=draws, dtype=like.dtype, device=like.device)

    rows = torch.randint(len(samples), (count,), generator=draws, device=samples.device)
    labels = None if data.labels is None else data.labels[rows]
    if labels is not None and config.label_dropout > 0:
        chosen = torch.rand(count, generator=draws, device=samples.device)
        labels = torch.where(chosen < config.label_dropout, data.num_classes, labels)
    sigmas = path_levels(config, samples)
    states = samples.new_empty(len(sigmas), *samples[rows].shape)
    x, below = samples[rows], sigmas.new_zeros(())
    for level, sigma in enumerate(sigmas):
        x = x + (sigma.square() - below.square()).sqrt() * normal(x)
        states[level], below = x, sigma
    values = samples.new_empty(len(sigmas), count)
    values[-1] = _gaussian_values(states[-1], sigmas[-1], labels, data)
    for level in range(len(sigmas) - 1, 0, -1):
        ends = states[level], states[level - 1], sigmas[level], sigmas[level - 1]
        probe = normal(x).sign()
        values[level - 1] = values[level] + _log_ratios(ends, probe, labels, teacher, config)
        between()
    return PathPool(states, values - values.mean(1, keepdim=True), sigmas, labels)


def _gaussian_values(
    x: torch.Tensor,
    sigma: torch.Tensor,
    labels: torch.Tensor | None,
    data: TrainingData,
) -> torch.Tensor:
    """Return log N(x; mean, (variance + sigma²) I) up to a constant, with mean and variance of each class."""
    values = torch.empty(len(x), dtype=x.dtype, device=x.device)
    if labels is None or data.labels is None:
        return _log_gaussian(x, sigma, data.samples)
    for label in labels.unique().tolist():
        rows, members = labels == label, data.labels == label
        # a label without samples of its own means unconditional
        samples = data.samples[members] if bool(members.any()) else data.samples
        values[rows] = _log_gaussian(x[rows], sigma, samples)
    return values


def _log_gaussian(x: torch.Tensor, sigma: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    mean = samples.mean(0)
    variance = (samples - mean).square().mean() + sigma.square()
    squares: torch.Tensor = (x - mean).square().flatten(1).sum(1)
    return -squares / (2 * variance)


def _log_ratios(
    ends: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    probe: torch.Tensor,
    labels: torch.Tensor | None,
    teacher: FrozenTeacher,
    config: DistillConfig,
) -> torch.Tensor:
    """Return log p_u(x_u) - log p_s(x_s) up to a constant, [n], for ends (x_s, x_u, s, u)."""
    start, to, s, u = ends
    parts = []
    size = config.batch_size
    for first in range(0, len(start), size):
        rows = slice(first, first + size)
        condition: dict[str, Any] = {} if labels is None else {"class_label": labels[rows]}
        x = start[rows]
        denoised, trace = teacher.denoised_and_trace(x, s, condition, probe[rows])
        parts.append(reversal_log_ratio(x, to[rows], s, u, denoised, trace))
    return torch.cat(parts)


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

    start and to: x_s and x_u [B, *shape]. s and u: the levels []. denoised: D(x_s; s). trace: tr(dD/dx)/d, [B] or
    []. most: the upper bound of kappa; the lower one, u²/(2 s²), keeps the variance meaningful where the trace is
    random.
    """
    tau2, elements = s.square() - u.square(), start[0].numel()
    kappa = 1 + tau2 * ((trace - 1) / s.square())
    kappa = torch.maximum(kappa, 0.5 * (u / s).square()).clamp(max=most)
    mean = start + tau2 / s.square() * (denoised - start)
    forward = (to - mean).square().flatten(1).sum(1) / (2 * kappa * tau2)
    backward = (start - to).square().flatten(1).sum(1) / (2 * tau2)
    return backward - forward - 0.5 * elements * kappa.log()
