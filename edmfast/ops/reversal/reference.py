"""Reversal-matched proposals and log-weights in plain torch and float64.

Every reversal from s to u is taken as the Gaussian N(x + τ² s_i, κ_i τ² I) with τ² = s² - u² and
``κ_i = clamp(1 + τ² t_i/d, u²/(2 s²), 1.5)``, where t_i is the trace of the Jacobian of the score s_i. The
product of the reversals to the powers a_i is the proposal; its normalisation, which depends on x_s only, is the
weight. docs/mathematics.md derives both. A gain of the weight is bounded, see `MOST_GAIN`.
Source: He et al. 2025 ("RNE"), arXiv 2506.05668, for the path ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 1.5
"""The upper bound of κ: a reversal that is wider than its step has left the range of the approximation."""
MOST_GAIN = 3.0
"""The bound in nats of what differences of the scores can add to a log-weight. Only negative exponents add
anything: the weight then is large where the mean of one reversal lies in the tail of another. Gaussian tails are
much thinner than those of a reversal with several modes, so that a gain g is taken as g/(1 + g/3), which is g to
first order. On the digits of the demonstration (32 steps, 2 populations of 256 particles for each class) this
lowers the total variation of the masses from .09 to .05 for guidance of weight 2, and from .23 to .07 for 4."""


def traces_of(products: Sequence[Tensor], probes: Tensor) -> Tensor:
    """Return Hutchinson's estimates [M, P, N] of the traces, the means over the probes of <v, (grad s_i) v>.

    products: M tensors [P, N, K, d]; probes [P, N, K, d].
    """
    wide = probes.double()
    sums = [(product.double() * wide).sum((2, 3)) for product in products]
    return torch.stack(sums) / probes.shape[2]


def reversal(
    scores: Sequence[Tensor],
    exponents: Tensor,
    levels: Tensor,
    traces: Tensor | None,
    products: Sequence[Tensor],
    probes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (coefficients [P, N, M + 2], log-weights [P, N]).

    scores: M tensors [P, N, d]; exponents [P, M]; levels [2] = (s, u); either traces [M, P, N], or products, M
    tensors [P, N, K, d], and probes [P, N, K, d].
    """
    s, u = levels.unbind()
    variance = (s - u) * (s + u)
    elements = scores[0].shape[2]
    slope = variance / max(elements, 1)
    if traces is None:
        assert probes is not None
        traces = traces_of(products, probes)

    def curvature(trace: Tensor) -> Tensor:
        kappa = 1.0 + slope * trace
        # these bounds keep NaN
        return torch.maximum(kappa, 0.5 * (u / s).square()).clamp(max=LARGEST)

    a = exponents.T[..., None]
    total = a.sum(0)
    kappa = curvature(traces)
    # where the product of the reversals would be more than twice as wide as the step, one curvature serves all
    common = curvature((a.abs() / a.abs().sum(0) * traces).sum(0))
    shared = (a / kappa).sum(0) < 0.5 * total
    # one model is the same case: its curvature is the common one, and its exponent 1 weighs exactly nothing
    if len(scores) == 1:
        shared = torch.ones_like(shared)
    kappa = torch.where(shared, common, kappa)
    weight = a / kappa
    precision = torch.where(shared, total / common, weight.sum(0))
    volume = torch.where(
        shared,
        (total - 1.0) * common.log(),
        (a * kappa.log()).sum(0) + (precision / total).log(),
    )
    share = weight / precision
    mean = sum(b[..., None] * score.double() for b, score in zip(share, scores, strict=True))
    # sum_i b_i |s_i - m|² is sum_i b_i |s_i|² - P |m|² without its cancellation
    spread = sum(
        b * (score.double() - mean).square().sum(2) for b, score in zip(weight, scores, strict=True)
    )
    gain = -0.5 * variance * spread
    # only negative exponents give a gain, and it must stay bounded: see the module's text
    gain = torch.where(gain > 0, gain / (1.0 + gain / MOST_GAIN), gain)
    log_weight = -0.5 * elements * volume + gain
    own = [variance * b for b in share]
    both = [variance / precision, (variance / total).expand_as(precision)]
    return torch.stack([*own, *both], -1), log_weight
