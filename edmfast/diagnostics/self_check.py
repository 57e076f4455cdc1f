"""Does an energy agree with its own score along trajectories?

For a step from sigma = s to u < s with tau^2 = s^2 - u^2, delta = x_u - x_s and the score s(x_s),

    r = -(E(x_u, u) - E(x_s, s)) - (<s, delta> - tau^2 |s|^2 / 2).

Ito's formula and the heat equation of the density make r vanish for an exact energy as the steps
shrink; r is the log-weight of the Euler-Maruyama proposal, the weight sequential Monte Carlo would
see. Per step,

- the mean is the drift of the gauge: the model's energies at u and s are off by that constant,
  which cancels in self-normalised weights and does not cancel in log Z or between models;
- the standard deviation is the disagreement of energy differences and score, plus what the step
  size leaves over even for an exact energy (compare with a finer schedule to tell them apart). It
  does not cancel: it is the noise that a learned energy adds to every weight.

Source: the Feynman-Kac weights of Skreta et al. 2025 (arXiv 2503.02819) and Thornton et al. 2025
(arXiv 2502.12786), for one model at exponent 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float, as_seed, check_level
from edmfast.models.calling.foreign import call_energy
from edmfast.ops import standard_normal

_FREE_STREAM = 5


@dataclass(frozen=True, repr=False)
class SelfCheck:
    """Residuals r in nats, step i going from sigmas[i] to sigmas[i + 1].

    sigmas: float64 [T + 1]. residuals: float64 [T, B]. mean, sd: float64 [T] over the batch.
    """

    sigmas: Tensor
    residuals: Tensor

    def __repr__(self) -> str:
        steps, batch = self.residuals.shape
        sigmas = f"{float(self.sigmas[0]):.4g} to {float(self.sigmas[-1]):.4g}"
        return (
            f"SelfCheck({steps} steps of {batch} trajectories from {sigmas}, largest |mean| "
            f"{float(self.mean.abs().max()):.3g}, largest sd {float(self.sd.max()):.3g} nats)"
        )

    @property
    def mean(self) -> Tensor:
        return self.residuals.mean(1)

    @property
    def sd(self) -> Tensor:
        return self.residuals.std(1)


@without_gradients
def self_check(
    model: Any, trajectory: Iterable[Tensor], sigmas: Tensor | Sequence[float], **condition: Any
) -> SelfCheck:
    """The residual r of every step of a trajectory; one evaluation of the model per level.

    Args:
        model: has energy_and_score(x, sigma, **condition) -> ([B], [B, *shape]), exponent 1.
        trajectory: T + 1 states [B, *shape], the i-th at noise sigmas[i]: from
            `noising_trajectory`, `ancestral_trajectory`, or any sampler's steps.
        sigmas: [T + 1], positive, strictly decreasing.

    Raises:
        ValueError: bad sigmas, another number of states, or a model whose exponent is not 1.
    """
    levels = _check_levels(sigmas)
    exponent = getattr(model, "exponent", 1.0)
    if exponent != 1:
        raise ValueError(f"the self-check holds for a model of exponent 1, got {exponent}")
    states = list(trajectory)
    if len(states) != len(levels):
        raise ValueError(f"{len(levels)} sigmas need as many states, got {len(states)}")
    residuals = []
    x, (energy, score) = states[0], call_energy(model, states[0], levels[0], **condition)
    for i, state in enumerate(states[1:]):
        variance = levels[i] ** 2 - levels[i + 1] ** 2
        slope = score.flatten(1).double()
        predicted = (slope * (state - x).flatten(1)).sum(1) - variance / 2 * (slope**2).sum(1)
        before = energy
        x, (energy, score) = state, call_energy(model, state, levels[i + 1], **condition)
        residuals.append(before.double() - energy.double() - predicted)
    return SelfCheck(torch.tensor(levels, dtype=torch.float64), torch.stack(residuals))


def noising_trajectory(
    data: Tensor, sigmas: Tensor | Sequence[float], *, seed: int = 0
) -> list[Tensor]:
    """Data [B, *shape] noised step by step: T + 1 states, the i-th at sigmas[i], largest first.

    These follow the true law of (x_u, x_s), so they show the model where the data is.

    Raises:
        ValueError: bad sigmas.
    """
    levels = _check_levels(sigmas)
    states = [data]
    for i in reversed(range(len(levels))):
        below = levels[i + 1] if i + 1 < len(levels) else 0.0
        noise = _normal(data, seed, i)
        states.append(states[-1] + math.sqrt(levels[i] ** 2 - below**2) * noise)
    return states[:0:-1]


@without_gradients
def ancestral_trajectory(
    model: Any, start: Tensor, sigmas: Tensor | Sequence[float], *, seed: int = 0, **condition: Any
) -> list[Tensor]:
    """Ancestral sampling by the model's own score from `start` [B, *shape] at sigmas[0].

    x_u = x_s + tau^2 s(x_s) + tau (u / s) z; T + 1 states. These show the model where it samples.

    Raises:
        ValueError: bad sigmas.
    """
    levels = _check_levels(sigmas)
    states = [start]
    for i in range(len(levels) - 1):
        x, sigma, sigma_next = states[-1], levels[i], levels[i + 1]
        variance = sigma**2 - sigma_next**2
        _, score = call_energy(model, x, sigma, **condition)
        noise = math.sqrt(variance) * sigma_next / sigma * _normal(x, seed, i)
        states.append(x + variance * score + noise)
    return states


def _normal(like: Tensor, seed: int, step: int) -> Tensor:
    return standard_normal(like[None], seed=as_seed(seed), step=step, stream=_FREE_STREAM)[0]


def _check_levels(sigmas: Tensor | Sequence[float]) -> list[float]:
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or not falling or not levels[-1] > 0 or not math.isfinite(levels[0]):
        raise ValueError(
            f"sigmas must be at least two positive, strictly decreasing levels, got {levels}"
        )
    for i, level in enumerate(levels):
        check_level(f"sigmas[{i}]", level)
    return levels
