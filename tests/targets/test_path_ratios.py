"""Log-ratios between two states: exact for isotropic Gaussians, and of opposite errors for others."""

import torch

from edmfast.targets.path_ratios import log_ratio_from_above, log_ratio_from_below


def ratios(variances, x_s, x_u, s, u):
    """Return (the estimate from x_s, that from x_u, the exact log-ratio) for N(0, diag(variances))."""
    s, u = (torch.tensor(level, dtype=torch.float64) for level in (s, u))
    move = x_u - x_s
    results = []
    for formula, x, level in ((log_ratio_from_above, x_s, s), (log_ratio_from_below, x_u, u)):
        precision = 1 / (variances + level**2)
        score = -precision * x
        along, square = (move * score).sum(1), score.square().sum(1)
        results.append(
            formula(len(variances), s, u, -precision.sum(), along, square, move.square().sum(1))
        )
    log_p = [
        torch.distributions.Normal(0, (variances + level**2).sqrt()).log_prob(x).sum(1)
        for x, level in ((x_u, u), (x_s, s))
    ]
    return *results, log_p[0] - log_p[1]


def states(variances, s, u, rows=4000):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, rows, len(variances), generator=generator, dtype=torch.float64)
    x_u = (variances + u**2).sqrt() * z[0]
    return x_u + (s**2 - u**2) ** 0.5 * z[1], x_u


def test_isotropic_gaussians_are_exact_for_any_move():
    variances = torch.full((5,), 0.3, dtype=torch.float64)
    for s, u in ((1.0, 0.9), (3.0, 0.1)):
        x_s, x_u = states(variances, s, u, rows=10)
        for start, end in ((x_s, x_u), (3 * x_s, x_u + 1), (x_u, x_u)):
            above, below, exact = ratios(variances, start, end, s, u)
            torch.testing.assert_close(above, exact)
            torch.testing.assert_close(below, exact)


def test_the_errors_of_the_two_ends_are_nearly_opposite():
    variances = torch.tensor([0.05, 0.2, 1.0, 2.0], dtype=torch.float64)
    above, below, exact = ratios(variances, *states(variances, 0.6, 0.5), 0.6, 0.5)
    errors = [float((part - exact).mean()) for part in (above, below, (above + below) / 2)]
    assert errors[0] < -0.01
    assert errors[1] > 0.01
    assert abs(errors[2]) < 0.1 * min(map(abs, errors[:2]))
