"""Run plans of solvers on a one-dimensional Gaussian, where every register is an affine function of the start.

With data from N(mean, std²) the denoised states are D = (std² x + sigma² mean) / (std² + sigma²). A register is
then a x_0 + b + sum_i g_i xi_i with the standard normals xi_i of the draws, kept as the vector (a, b, g_1, ...).
The law of a solver follows without sampling.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from edmfast.sampling.engine import Call, plan_of, requests_of


class Law(NamedTuple):
    """The end a x_0 + b + noise: its gain a, its offset b, and the variance of its noise."""

    gain: float
    offset: float
    variance: float


def law(solver, levels, mean=0.0, std=1.0) -> Law:
    """Return the law of the end of a run of a solver over levels."""
    plan = plan_of(solver, tuple(map(float, levels)))
    x = np.zeros(2 + len(requests_of(plan)))
    x[0] = 1.0
    registers, draw = {"x": x}, 1
    for step in plan.steps:
        for work in step.work:
            if isinstance(work, Call):
                registers[work.out] = denoised(registers[work.state], work.sigma, mean, std)
                continue
            result = sum(c * registers[name] for name, c in work.value.terms.items() if c)
            result = result + np.zeros_like(x)
            if work.draws:
                draw += 1
                result[draw] += work.noise
            registers[work.out] = result
        registers = {
            "x": registers["x"],
            **{new: registers[old] for new, old in step.keep},
        }
    gain, offset, *noise = registers["x"]
    return Law(gain, offset, float(np.square(noise).sum()))


def denoised(state, sigma, mean, std):
    result = std**2 / (std**2 + sigma**2) * state
    result[1] += sigma**2 / (std**2 + sigma**2) * mean
    return result


def exact_gain(first, last, std=1.0):
    """Return the gain of the probability-flow ODE from one level to another."""
    return math.sqrt((std**2 + last**2) / (std**2 + first**2))


def slopes(errors):
    """Return the orders of convergence between errors whose numbers of steps double."""
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


def uniform(first, last, steps):
    return np.linspace(first, last, steps + 1)
