"""The steps of diffusers' `IPNDMScheduler`, in its own coordinates.

Its states are alpha x_0 + beta eps with alpha² + beta² = 1, its model predicts v = alpha eps - beta x_0, and
eps = beta x + alpha v is extrapolated by Adams and Bashforth's formulas for equal steps:

    eps' = (3 eps - eps1) / 2,    (23 eps - 16 eps1 + 5 eps2) / 12,    (55 eps - 59 eps1 + 37 eps2 - 9 eps3) / 24
    x' = alpha_next (x - beta eps') / alpha + beta_next eps'

Source: Liu et al. 2022, "Pseudo numerical methods for diffusion models", arXiv 2202.09778; Zhang and Chen 2022,
arXiv 2204.13902 (the improved start).
"""

from __future__ import annotations

import functools

from edmfast.sampling.engine import Call, Combine, Plan, Step, register

WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
# At the first level there is no signal.
_SMALLEST_ALPHA = 1e-8


@functools.lru_cache(maxsize=64)
def angle_plan(sigmas: tuple[float, ...], alphas: tuple[float, ...]) -> Plan:
    """Return the plan over T + 1 levels, whose calls return the model's v."""
    names = ("eps", "eps1", "eps2", "eps3")
    keep = tuple(zip(names[1:], names, strict=False))
    steps = []
    for i, (beta, alpha) in enumerate(zip(sigmas[:-1], alphas[:-1], strict=True)):
        x = register("x")
        eps = beta * x + alpha * register("v")
        weights = WEIGHTS[min(i, 3)]
        change = weights[0] * eps
        for name, weight in zip(names[1:], weights[1:], strict=False):
            change = change + weight * register(name)
        signal = alphas[i + 1] / max(alpha, _SMALLEST_ALPHA)
        end = signal * (x - beta * change) + sigmas[i + 1] * change
        work = (Call(beta, out="v"), Combine("eps", eps), Combine("x", end))
        steps.append(Step(beta, work, keep[: min(i + 1, 3)]))
    return Plan(tuple(steps))
