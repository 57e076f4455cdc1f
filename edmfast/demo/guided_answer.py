"""The exact answer of guidance on a mixture with classes.

The target is p(x)^(1-w) p(x | c)^w = p(x | c) (p(x | c)/p(x))^(w-1), and p(x | c)/p(x) = p(c | x)/p(c). So draws
of p(x | c), weighted by p(c | x)^(w-1), follow the target exactly, and these weights lie between 0 and 1. Source:
Ho & Salimans 2022, arXiv 2207.12598, with Bayes' rule.
"""

from __future__ import annotations

import math

from torch import Tensor

from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.known_answer import KnownAnswer, systematic
from edmfast.demo.smooth_digits import SIGMA_MIN


def guided_answer(
    mixture: MixtureOfGaussians,
    label: int,
    w: float,
    sigma: float = SIGMA_MIN,
    *,
    draws: int = 4096,
    seed: int = 0,
) -> KnownAnswer:
    """Return the answer for p(x; sigma)^(1-w) p(x; sigma | label)^w, from weighted draws.

    Args:
        mixture: p, with classes.
        label: the class c, from 0 to C - 1.
        w: the strength of the guidance, at least 1; 1 means p(x | c).
        sigma: noise level, at least 0, in the units of x.
        draws: number of draws of p(x | c), and of the target.
        seed: 64 bits that determine the draws.

    Raises:
        ValueError: w below 1, or a mixture without classes.
    """
    if not w >= 1:
        raise ValueError(f"the strength w of the guidance must be at least 1, given {w:g}")
    conditional = mixture.conditional(label).at(sigma)
    x = conditional.sample(draws, seed=seed)
    # log p(x | c) - log p(x), which is log p(c | x) - log p(c)
    log_ratio = conditional.log_prob(x) - mixture.log_prob(x, sigma)
    log_weights = (w - 1) * log_ratio
    weights = log_weights.softmax(0)
    shares = conditional.responsibilities(x)
    masses = weights @ shares
    log_targets = conditional.log_prob(x) + log_weights
    mean = float(weights @ log_targets)
    relative = (draws * weights).std() / math.sqrt(draws)
    return KnownAnswer(
        models=(mixture, mixture.conditional(label)),
        exponents=(1 - w, w),
        sigma=sigma,
        judge=conditional,
        masses=masses,
        # the delta method for a ratio of two means
        masses_error=(weights.square() @ (shares - masses).square()).sqrt(),
        log_z=float(log_weights.logsumexp(0)) - math.log(draws),
        log_z_error=float(relative),
        draws=x[systematic(weights, draws)],
        log_density=mean,
        log_density_error=float((weights.square() @ (log_targets - mean).square()).sqrt()),
    )


def guided_draws(answer: KnownAnswer, count: int, *, seed: int) -> Tensor:
    """Return other draws [count, D] of the target of a `guided_answer`, resampled from eight times as many.

    seed: 64 bits that determine the draws, other ones than those of the answer.
    """
    w = answer.exponents[1]
    x = answer.judge.sample(8 * count, seed=seed)
    log_ratio = answer.judge.log_prob(x) - answer.models[0].log_prob(x, answer.sigma)
    return x[systematic(((w - 1) * log_ratio).softmax(0), count)]
