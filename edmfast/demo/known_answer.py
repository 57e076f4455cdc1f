"""The exact answer of control on a known mixture: p^gamma, or the product of mixtures, at one noise level.

For an integer gamma, and for the product of two mixtures, the target is an exact mixture again: see
`edmfast.analytic.MixtureOfGaussians`. For other gammas no closed form exists. The answer then comes from
self-normalised importance sampling with the proposal

    q(x) ∝ sum_k N(x; mu_k, C_k)^gamma w_k^gamma,

the mixture of the powers of the components. Up to the constant of q, the ratio p^gamma/q lies between 1 and
K^(gamma-1). So the weights hardly vary, and the standard errors, which are part of the answer, are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.smooth_digits import SIGMA_MIN

_BLOCK = 1 << 14


@dataclass(frozen=True, eq=False)
class KnownAnswer:
    """The target prod_i p_i^(a_i) of mixtures at one noise level, with what is known about it."""

    models: tuple[MixtureOfGaussians, ...]
    """The mixtures p_i: one of them, or two."""
    exponents: tuple[float, ...]
    """The exponents a_i."""
    sigma: float
    """The noise level, in the units of x."""
    judge: MixtureOfGaussians
    """The mixture without noise whose components have the masses: p at sigma, or the pairs of a product."""
    masses: Tensor
    """The mean responsibilities of the judge's components under the target, float64 [K] with the sum 1."""
    masses_error: Tensor
    """Their standard errors, [K]; 0 where the masses are exact."""
    log_z: float
    """The log of the integral of the target, in nats, of normalised p_i."""
    log_z_error: float
    """Its standard error; 0 where it is exact."""
    draws: Tensor
    """Independent draws of the target, float64 [n, D]. For other gammas they are resampled from weighted draws."""
    log_density: float
    """The mean of `log_target` under the target, from the draws."""
    log_density_error: float
    """Its standard error."""

    def log_target(self, x: Tensor) -> Tensor:
        """Return sum_i a_i log p_i(x; sigma), in nats, [B], for states [B, *shape]."""
        return _log_target(self.models, self.exponents, self.sigma, x)

    @property
    def class_masses(self) -> Tensor | None:
        """The masses of the classes, [C]; None for a product and for a mixture without classes."""
        return None if self.judge.classes is None else self.judge.by_class(self.masses)


def power_answer(
    model: MixtureOfGaussians,
    gamma: float,
    sigma: float = SIGMA_MIN,
    *,
    draws: int = 4096,
    importance: int = 100_000,
    seed: int = 0,
) -> KnownAnswer:
    """Return the answer for p(x; sigma)^gamma.

    Args:
        model: p.
        gamma: the exponent, positive.
        sigma: noise level, at least 0, in the units of x.
        draws: number of exact draws, for the mean log-density and distances.
        importance: number of weighted draws, where gamma is no integer.
        seed: 64 bits that determine the draws.

    Raises:
        ValueError: numbers out of range, or more components than memory holds.
    """
    gamma, draws = as_float("gamma", gamma, positive=True), as_int("draws", draws, least=2)
    at_level = model.at(sigma)
    if gamma.is_integer():
        power = at_level.power(int(gamma))
        exact = power.sample(draws, seed=seed)
        known = _Known(power.factor_masses[0], None, power.log_normaliser, 0.0, exact)
    else:
        importance = as_int("importance", importance, least=draws)
        known = _by_importance(at_level, gamma, draws, importance, seed)
    return _answer((model,), (gamma,), sigma, at_level, known)


def product_answer(
    first: MixtureOfGaussians,
    second: MixtureOfGaussians,
    sigma: float = SIGMA_MIN,
    *,
    draws: int = 4096,
    seed: int = 0,
) -> KnownAnswer:
    """Return the answer for first(x; sigma) second(x; sigma), whose masses are those of all pairs of components.

    See `power_answer` for the other arguments and the errors.
    """
    draws = as_int("draws", draws, least=2)
    pairs = first.product(second, sigma)
    exact = pairs.sample(draws, seed=seed)
    known = _Known(pairs.weights, None, pairs.log_normaliser, 0.0, exact)
    return _answer((first, second), (1.0, 1.0), sigma, pairs, known)


def _log_target(
    models: tuple[MixtureOfGaussians, ...], exponents: tuple[float, ...], sigma: float, x: Tensor
) -> Tensor:
    pairs = zip(exponents, models, strict=True)
    return torch.stack([a * model.log_prob(x, sigma) for a, model in pairs]).sum(0)


@dataclass(frozen=True)
class _Known:
    masses: Tensor
    masses_error: Tensor | None
    log_z: float
    log_z_error: float
    draws: Tensor


def _answer(
    models: tuple[MixtureOfGaussians, ...],
    exponents: tuple[float, ...],
    sigma: float,
    judge: MixtureOfGaussians,
    known: _Known,
) -> KnownAnswer:
    error = torch.zeros_like(known.masses) if known.masses_error is None else known.masses_error
    values = in_blocks(lambda x: _log_target(models, exponents, sigma, x), known.draws)
    return KnownAnswer(
        models,
        exponents,
        sigma,
        judge,
        known.masses,
        error,
        known.log_z,
        known.log_z_error,
        known.draws,
        float(values.mean()),
        float(values.std() / math.sqrt(len(values))),
    )


def _by_importance(
    model: MixtureOfGaussians, gamma: float, draws: int, importance: int, seed: int
) -> _Known:
    """Return the answer for p^gamma without noise from weighted draws of the mixture of its components' powers."""
    log_dets = torch.linalg.slogdet(model.covariances)[1]
    log_powers = gamma * model.weights.log() + 0.5 * (1 - gamma) * log_dets
    covariances = model.covariances / gamma
    proposal = MixtureOfGaussians(model.means, covariances, log_powers.softmax(0))
    x = proposal.sample(importance, seed=seed)
    ratios = in_blocks(lambda part: gamma * model.log_prob(part) - proposal.log_prob(part), x)
    shares = in_blocks(model.responsibilities, x)
    weights = ratios.softmax(0)
    masses = weights @ shares
    # the delta method for a ratio of two means
    errors = (weights.square() @ (shares - masses).square()).sqrt()
    relative = (importance * weights).std() / math.sqrt(importance)
    log_z = float(ratios.logsumexp(0)) - math.log(importance)
    return _Known(masses, errors, log_z, float(relative), x[systematic(weights, draws)])


def systematic(weights: Tensor, count: int) -> Tensor:
    """Return indices [count] of a systematic draw with normalised weights [N].

    Index i comes weights[i] times count times, within one.
    """
    points = (torch.arange(count, dtype=torch.float64, device=weights.device) + 0.5) / count
    chosen = torch.searchsorted(weights.double().cumsum(0), points, right=True)
    # rounding of the cumulative sum may leave the last number below the last point
    return chosen.clamp(max=len(weights) - 1)


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the values [n, ...] of a function of rows x [n, D], evaluated in blocks that bound its memory."""
    return torch.cat([function(part) for part in x.split(_BLOCK)])
