"""Measure an energy: its residual, its denoiser, and the distances between its ODE, its SDE and the data.

The SDE is the reverse SDE of variance-exploding noise, by DPM-Solver++(2M) SDE, and the ODE is solved by Heun's
method, both from one schedule. A distance is the sliced 2-Wasserstein distance of two sets of samples. The ODE
starts from scrambled Sobol points, which leaves little of its chance. Students of one seed share all random
numbers. The floor is the distance of two independent sets of the data, whose components have their exact shares;
the distances of the exact denoiser, with the same numbers, also have the chance of the SDE.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.studies.fokker_planck.students import teacher
from edmfast.diagnostics import fokker_planck, sliced_wasserstein
from edmfast.sampling import get_sigmas_karras, sample_dpmpp_2m_sde, sample_heun

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0


def ends(model: Any, count: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the ends of ODE and SDE [count, 2], each from its own start."""
    sigmas = get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(count)
    first = SIGMA_MAX * torch.special.ndtri(points.double().clamp(1e-9, 1 - 1e-9)).float()
    second = SIGMA_MAX * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    ode = sample_heun(model, first, sigmas, disable=True)
    sde = sample_dpmpp_2m_sde(model, second, sigmas, disable=True, seed=seed)
    return ode, sde


def distances(model: Any, count: int, steps: int, seed: int) -> dict[str, float]:
    """Return the sliced W2 between ODE, SDE and data, and the floor."""
    ode, sde = ends(model, count, steps, seed)
    exact, other = (teacher().sample(count, seed=100 + 2 * seed + k).float() for k in (0, 1))
    pairs = {"ode_sde": (ode, sde), "ode_data": (ode, exact), "sde_data": (sde, exact)}
    pairs["floor"] = exact, other
    return {name: round(sliced_wasserstein(*pair), 5) for name, pair in pairs.items()}


def residuals(model: Any, count: int = 2000) -> list[float]:
    """Return the standard deviation of sigma times the residual at LEVELS, in nats, on exact states."""
    states = [teacher().sample(count, sigma, seed=7).float() for sigma in LEVELS]
    sd = fokker_planck(model, states, LEVELS).sd
    return [round(float(value) * sigma, 5) for value, sigma in zip(sd, LEVELS, strict=True)]


def denoiser_errors(model: Any, count: int = 4000) -> list[float]:
    """Return the root mean squared error of the denoised states divided by sigma, at LEVELS."""
    errors = []
    for sigma in LEVELS:
        x = teacher().sample(count, sigma, seed=11)
        with torch.no_grad():
            error = model(x.float(), sigma).double() - teacher()(x, sigma)
        errors.append(round(float(error.square().mean().sqrt()) / sigma, 5))
    return errors
