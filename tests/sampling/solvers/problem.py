"""A mixture of Gaussians with its probability-flow ODE solved by another method, and measured orders."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from edmfast import sampling

HIGH, LOW = 20.0, 0.18
MEANS = torch.tensor([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.0]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.4, 0.25], dtype=torch.float64)


def mixture(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the denoised states of equal components by their formula."""
    variance = STDS**2 + torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1) ** 2
    gap = x[:, None] - MEANS
    share = torch.softmax(-0.5 * (gap**2).sum(-1) / variance - torch.log(variance), dim=1)
    return (share[..., None] * (MEANS + (STDS**2 / variance)[..., None] * gap)).sum(1)


def normal(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the denoised states of N(0, 1/4)."""
    variance = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1) ** 2
    return x * 0.25 / (0.25 + variance)


def start(rows: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return HIGH * torch.randn(rows, 2, dtype=torch.float64, generator=generator)


@functools.lru_cache(maxsize=1)
def truth() -> Tensor:
    """Return the end of the ODE at LOW by the classical Runge–Kutta method in ln sigma."""
    x, steps = start(), 1500
    h = math.log(LOW / HIGH) / steps

    def velocity(state: Tensor, time: float) -> Tensor:
        return state - mixture(state, math.exp(time))

    for i in range(steps):
        time = math.log(HIGH) + i * h
        k1 = velocity(x, time)
        k2 = velocity(x + h / 2 * k1, time + h / 2)
        k3 = velocity(x + h / 2 * k2, time + h / 2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, time + h))
    return x


def karras(steps: int, high: float = HIGH, low: float = LOW) -> Tensor:
    """Return the steps + 1 positive levels of the Karras grid in float64."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    levels: Tensor = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return levels


def solved(solver, steps: int) -> Tensor:
    return sampling.sample(mixture, start(), karras(steps), solver, disable=True)


def slope(solver, coarse: int = 32, fine: int = 256) -> float:
    """Return the order of convergence that the mean errors at two numbers of steps show."""
    errors = [(solved(solver, steps) - truth()).abs().mean().item() for steps in (coarse, fine)]
    return math.log(errors[0] / errors[1]) / math.log(fine / coarse)
