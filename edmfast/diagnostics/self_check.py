"""A check that an energy agrees with its own score along trajectories.

For a step from sigma = s to u < s with tau² = s² - u², delta = x_u - x_s and the score s(x_s), the residual is

    r = -(E(x_u, u) - E(x_s, s)) - (<s, delta> - tau² |s|² / 2).

By Ito's formula and the heat equation of the density, r vanishes for an exact energy as the steps shrink. r is
also the log-weight of the Euler-Maruyama proposal, which sequential Monte Carlo would use. For every step,

- the mean is the drift of the gauge: the model's energies at u and s are off by that constant, which cancels in
  self-normalised weights but not in log Z or between models;
- the standard deviation is the disagreement between energy differences and score, plus the error of the step size,
  which remains even for an exact energy (compare with a finer schedule to separate the two). It does not cancel:
  it is the noise that a learned energy adds to every weight.

Source: the Feynman–Kac weights of Skreta et al. 2025 (arXiv 2503.02819) and Thornton et al. 2025 (arXiv
2502.12786), for one model at exponent 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.noise_levels import as_noise_levels, check_squares
from edmfast._internal.numbers import as_seed
from edmfast.models.calling.foreign import call_energy
from edmfast.models.protocols import Target
from edmfast.ops import standard_normal

_DIAGNOSTICS_STREAM = 5


@dataclass(frozen=True, repr=False)
class SelfCheck:
    """The residuals r of a self-check in nats, where step i goes from sigmas[i] to sigmas[i + 1].

    Attributes:
        sigmas: the noise levels, float64 [T + 1], in units of x.
        residuals: r for every step and trajectory, float64 [T, B].
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
        """The mean of r over the batch, float64 [T]: the drift of the gauge at every step."""
        return self.residuals.mean(1)

    @property
    def sd(self) -> Tensor:
        """The standard deviation of r over the batch, float64 [T]: the disagreement of energy and score."""
        return self.residuals.std(1)


@without_gradients
def self_check(
    model: Target, trajectory: Iterable[Tensor], sigmas: Tensor | Sequence[float], **condition: Any
) -> SelfCheck:
    """Compute the residual r of every step of a trajectory, by one evaluation of the model per noise level.

    Sources: Skreta et al. 2025, arXiv 2503.02819; Thornton et al. 2025, arXiv 2502.12786.

    Args:
        model: the target, with energy_and_score(x, sigma, **condition) -> ([B], [B, *shape]) and the exponent 1.
        trajectory: T + 1 states [B, *shape], of which the i-th is at the noise level sigmas[i]: from
            `noising_trajectory`, `ancestral_trajectory`, or the steps of any sampler.
        sigmas: the noise levels [T + 1] in units of x, positive and strictly decreasing.
        condition: keyword conditions for the model.

    Returns:
        A `SelfCheck` with the residuals [T, B] in nats.

    Raises:
        TypeError: noise levels that are no numbers.
        ValueError: other noise levels, another number of states than levels, or a model whose exponent is not 1.
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
        # In float64, because r is a small difference of large terms.
        slope = score.flatten(1).double()
        predicted = (slope * (state - x).flatten(1)).sum(1) - variance / 2 * (slope**2).sum(1)
        # Each state is evaluated once and serves both the step that ends there and the one that
        # starts there.
        before = energy
        x, (energy, score) = state, call_energy(model, state, levels[i + 1], **condition)
        residuals.append(before.double() - energy.double() - predicted)
    return SelfCheck(torch.tensor(levels, dtype=torch.float64), torch.stack(residuals))


def noising_trajectory(
    data: Tensor, sigmas: Tensor | Sequence[float], *, seed: int = 0
) -> list[Tensor]:
    """Return data noised step by step, largest noise level first.

    The states follow the true joint distribution of (x_u, x_s), so they show the model where the data is.
    Source: the forward process of Karras et al. 2022, arXiv 2206.00364.

    Args:
        data: clean samples [B, *shape].
        sigmas: the noise levels [T + 1] in units of x, positive and strictly decreasing.
        seed: the seed of the noise; that of sample k depends on (seed, k) alone.

    Returns:
        T + 1 states [B, *shape], of which the i-th is at the noise level sigmas[i].

    Raises:
        TypeError: noise levels or a seed that are no numbers.
        ValueError: other noise levels, or a seed that does not fit 64 bits.
    """
    levels = _check_levels(sigmas)
    states = [data]
    # Noise is added from the smallest level up, so that consecutive states share it.
    for i in reversed(range(len(levels))):
        below = levels[i + 1] if i + 1 < len(levels) else 0.0
        noise = _normal(data, seed, i)
        states.append(states[-1] + math.sqrt(levels[i] ** 2 - below**2) * noise)
    # The clean data at the start is left out, because it is at no positive noise level.
    return states[:0:-1]


@without_gradients
def ancestral_trajectory(
    model: Target,
    start: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    seed: int = 0,
    **condition: Any,
) -> list[Tensor]:
    """Return the states of ancestral sampling by the model's own score.

    x_u = x_s + tau² s(x_s) + tau (u / s) z. The states show the model where it samples.
    Source: Ho et al. 2020, arXiv 2006.11239.

    Args:
        model: the target, with energy_and_score(x, sigma, **condition) -> ([B], [B, *shape]).
        start: the states [B, *shape] at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, positive and strictly decreasing.
        seed: the seed of the noise; that of sample k depends on (seed, k) alone.
        condition: keyword conditions for the model.

    Returns:
        T + 1 states [B, *shape], of which the i-th is at the noise level sigmas[i].

    Raises:
        TypeError: noise levels or a seed that are no numbers.
        ValueError: other noise levels, or a seed that does not fit 64 bits.
    """
    levels = _check_levels(sigmas)
    states = [start]
    for i in range(len(levels) - 1):
        x, sigma, sigma_next = states[-1], levels[i], levels[i + 1]
        variance = sigma**2 - sigma_next**2
        _, score = call_energy(model, x, sigma, **condition)
        # The factor u/s gives the noise the posterior variance for data at one point.
        noise = math.sqrt(variance) * sigma_next / sigma * _normal(x, seed, i)
        states.append(x + variance * score + noise)
    return states


def _normal(like: Tensor, seed: int, step: int) -> Tensor:
    return standard_normal(like[None], seed=as_seed(seed), step=step, stream=_DIAGNOSTICS_STREAM)[0]


def _check_levels(sigmas: Tensor | Sequence[float]) -> list[float]:
    levels = as_noise_levels(sigmas, last_zero=False)
    check_squares(levels)
    return levels
