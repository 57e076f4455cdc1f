"""Differences of a log-density between two states at two noise levels, from scores and traces of their Jacobian.

Let p be the density of data with noise, s > u two levels, tau² = s² - u², and D = x_u - x_s any move. Where p is
near to a Gaussian, each of the two states tells the difference alone. From x_s, the reversal of the noise is
q(x_u | x_s) = N(x_s + tau² s_s, kappa tau² I) with kappa = 1 + tau² t_s/d (Tweedie's formula for mean and
covariance), so that by Bayes' rule

    log p(x_u; u) - log p(x_s; s) = log q(x_u | x_s) - log N(x_s; x_u, tau² I)
                                  = -(d/2) log kappa + |D|²/(2 tau²) (1 - 1/kappa)
                                    + <D, s_s>/kappa - tau² |s_s|²/(2 kappa).

From x_u, the convolution of a local Gaussian with the noise gives the same expression with s_u for s_s and 1/kappa
for c = 1 - tau² t_u/d, whose logarithm has the other sign. Here s are the scores and t the traces of grad s.

Both are exact for isotropic Gaussians and any move. Otherwise the errors of the two are nearly opposite to each
other: each is of first order in tau² over a whole path, and their mean is of second order.

Sources: He et al. 2025, arXiv 2506.05668 (the first identity); Efron 2011, "Tweedie's formula and selection bias".
"""

from __future__ import annotations

import math

from torch import Tensor

KAPPA_SLACK, KAPPA_MOST = 0.5, 1.5
"""The bounds of kappa: u²/s² times the slack, which no density of data with noise undercuts by more, and the
largest value, which a density that is not log-concave can need."""

MOST_OF_DATA = 0.99
"""The largest share of the data in the variance at the highest level, where the noise should dominate."""


def log_ratio_from_above(
    dim: int, s: Tensor, u: Tensor, trace: Tensor, along: Tensor, square: Tensor, move: Tensor
) -> Tensor:
    """Return log p(x_u; u) - log p(x_s; s) in nats from the score and the trace at x_s, float64.

    Args:
        dim: d, the number of elements of a state.
        s: the upper level, float64.
        u: the lower level, float64.
        trace: t = tr(grad s) at x_s.
        along: <D, score> with D = x_u - x_s.
        square: |score|².
        move: |D|².
    """
    tau2 = s.square() - u.square()
    kappa = (1 + tau2 * trace / dim).clamp_max(KAPPA_MOST).clamp_min(KAPPA_SLACK * (u / s).square())
    return _ratio(tau2, kappa, along, square, move) - dim / 2 * kappa.log()


def log_ratio_from_below(
    dim: int, s: Tensor, u: Tensor, trace: Tensor, along: Tensor, square: Tensor, move: Tensor
) -> Tensor:
    """Return log p(x_u; u) - log p(x_s; s) in nats from the score and the trace at x_u, float64.

    See `log_ratio_from_above` for the arguments, where D = x_u - x_s too.
    """
    tau2 = s.square() - u.square()
    most = (s / u).square() / KAPPA_SLACK
    growth = (1 - tau2 * trace / dim).clamp_min(1 / KAPPA_MOST).clamp_max(most)
    return _ratio(tau2, growth, along, square, move) + dim / 2 * growth.log()


def log_density_of_gaussian(dim: int, sigma: Tensor, trace: Tensor, square: Tensor) -> Tensor:
    """Return the log-density in nats at a level where the density is nearly an isotropic Gaussian, float64.

    Its mean and variance follow from the score and the trace at the state: log p = -v |s|²/2 - (d/2) log(2 pi v)
    with v = -d/t. See `log_ratio_from_above` for the arguments; sigma is the level.
    """
    noise = sigma.square()
    # This share of the data in the variance is the mean eigenvalue of the denoiser's Jacobian.
    share = (1 + noise * trace / dim).clamp(min=0.0, max=MOST_OF_DATA)
    variance = noise / (1 - share)
    return -variance / 2 * square - dim / 2 * (2 * math.pi * variance).log()


def _ratio(tau2: Tensor, kappa: Tensor, along: Tensor, square: Tensor, move: Tensor) -> Tensor:
    """Return the terms of the log-ratio that hold the score and the move."""
    # The difference of the two Gaussian exponents, written without their cancelling parts.
    return move / (2 * tau2) * (1 - 1 / kappa) + (along - tau2 / 2 * square) / kappa
