"""UniPC with momentum against its recurrence in the variance-preserving notation of its authors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edmfast.sampling.solvers import UniPC, UniPCHeavyBall
from tests.affine import law

LEVELS = [10.0, 7.0, 4.5, 3.0, 2.0, 1.2, 0.7, 0.4]


def in_variance_preserving_notation(levels, order, beta):
    """Return the end of a run on N(0, 1) from 1, with both momenta in effect."""
    sigmas = [s / math.sqrt(1 + s**2) for s in levels]
    alphas = [1 / math.sqrt(1 + s**2) for s in levels]
    lambdas = [-math.log(s) for s in levels]
    x = alphas[0]
    outputs, velocity = [], {"predictor": None, "corrector": None}
    last = len(levels) - 1
    start = None

    def step(kind, state, s, t, value):
        value = value / sigmas[t]
        old = velocity[kind]
        velocity[kind] = value if old is None else (1 - beta) * old + beta * value
        h_phi_1 = math.expm1(lambdas[s] - lambdas[t])
        return sigmas[t] * (state / sigmas[s] - alphas[t] * velocity[kind] * h_phi_1)

    def weights(ratios, s, t):
        hh = lambdas[s] - lambdas[t]
        phi, factorial, b = math.expm1(hh) / hh - 1, 1, []
        for i in range(1, len(ratios) + 1):
            b.append(phi * factorial / math.expm1(hh))
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        rows = np.array([np.array(ratios) ** i for i in range(len(ratios))])
        return np.linalg.solve(rows, b)

    for i in range(last):
        # The denoised states of N(0, 1) are x alpha at the level of x.
        outputs.insert(0, x * alphas[i])
        if i:
            p = min(order, i)
            h = lambdas[i] - lambdas[i - 1]
            ratios = [(lambdas[i - 1 - k] - lambdas[i - 1]) / h for k in range(1, p)]
            slopes = [(outputs[k + 1] - outputs[1]) / r for k, r in enumerate(ratios, 1)]
            rho = [0.5] if p == 1 else weights([*ratios, 1.0], i - 1, i)
            extra = sum(a * b for a, b in zip(rho, [*slopes, outputs[0] - outputs[1]], strict=True))
            x = step("corrector", start, i - 1, i, outputs[1] + extra)
        p = min(order, i + 1)
        h = lambdas[i + 1] - lambdas[i]
        ratios = [(lambdas[i - k] - lambdas[i]) / h for k in range(1, p)]
        slopes = [(outputs[k] - outputs[0]) / r for k, r in enumerate(ratios, 1)]
        rho = [0.5] if p == 2 else weights(ratios, i, i + 1) if ratios else []
        extra = sum(a * b for a, b in zip(rho, slopes, strict=True))
        start, x = x, step("predictor", x, i, i + 1, outputs[0] + extra)
    return x / alphas[last]


@pytest.mark.parametrize("beta", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_both_momenta_follow_the_recurrence(order, beta):
    solver = UniPCHeavyBall(order, lower_order_final=False, beta=beta)
    expected = in_variance_preserving_notation(LEVELS, order, beta)
    assert law(solver, LEVELS).gain == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"corrector": False}, {"skip_corrector": (2,)}])
def test_without_damping_it_is_unipc(options):
    levels = [*LEVELS, 0.0]
    plain, damped = (law(kind(3, **options), levels) for kind in (UniPC, UniPCHeavyBall))
    assert damped != pytest.approx(plain, rel=1e-3)
    full = law(UniPCHeavyBall(3, beta=1.0, **options), levels)
    assert full == pytest.approx(plain, rel=1e-12)


def test_momentum_needs_the_denoised_prediction():
    with pytest.raises(ValueError, match="prediction must be 'denoised' for UniPC with momentum"):
        UniPCHeavyBall(2, prediction="epsilon")
