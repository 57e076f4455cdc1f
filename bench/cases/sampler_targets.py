"""Build the targets of whole sampler runs: energies distilled in a few seconds, with their known answers.

A run is judged by log Z and by the masses nearest to each mode, against the energy that it was given, not
against the mixture that trained the energy. In two dimensions these are integrals over a grid; in 64 they are
means over independent runs in float64. The allowed deviation of one run is measured: the standard deviation over
populations, divided by the root of their number. (Moments would not do: single particles with a large weight
far out give their errors heavy tails.)
"""

from __future__ import annotations

import copy
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP

SIGMA_MAX, STEPS = 10.0, 8
SIGMA_MIN = {2: 0.1, 64: 0.3}
POPULATIONS, LARGEST_POPULATION = 16, 1 << 14


class Truth(NamedTuple):
    """Log Z, then the mass nearest to each of K modes, [1 + K].

    sd: the standard deviation of the answer of one run.
    """

    value: Tensor
    sd: Tensor


def levels(dim: int) -> list[float]:
    """Return STEPS + 1 geometric levels."""
    return torch.logspace(math.log10(SIGMA_MAX), math.log10(SIGMA_MIN[dim]), STEPS + 1).tolist()


def mixture(dim: int) -> GaussianMixture:
    """Return eight modes on a circle, or four in 64 dimensions, a little over four of their noised widths
    apart."""
    if dim == 2:
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        return GaussianMixture(1.5 * torch.stack([angle.cos(), angle.sin()], 1), [0.2] * 8)
    generator = torch.Generator().manual_seed(0)
    means = 0.15 * torch.randn(4, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, [0.3] * 4)


@functools.cache
def target(dim: int, device: torch.device) -> EnergyModel:
    """Return the energy in 2 or 64 dimensions, the same at every call.

    Training takes 2 to 3 seconds on the CPU.
    """
    if device.type != "cpu":
        # training rounds in another way on each device, so all devices get the energy of the CPU
        return copy.deepcopy(target(dim, torch.device("cpu"))).to(device)
    teacher = mixture(dim)
    data = teacher.sample(4000, seed=0).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResidualMLP(**ResidualMLP.PRESETS["2-D"]) if dim == 2 else ResidualMLP(dim)
    student = EnergyModel(network, sigma_data=data.std().item())
    config = DistillConfig(steps=400, batch_size=256, learning_rate=3e-3, p_mean=-0.5)
    distill(teacher, student, data, config=config, progress=False)
    return student


@functools.cache
def calibration(dim: int, device: torch.device) -> smc.Calibration:
    """Return kappa at each of the levels, and leave the levels as they are."""
    return smc.calibrate(target(dim, device), (dim,), levels(dim), equalise=False)


def _nearest(x: Tensor) -> Tensor:
    """Return the nearest mode as one-hot, x [..., d] -> float64 [..., K]."""
    means = mixture(x.shape[-1]).means.to(x.device, x.dtype)
    nearest = (2 * x @ means.T - means.square().sum(1)).argmax(-1)
    return torch.nn.functional.one_hot(nearest, len(means)).double()


def answer(particles: smc.Particles) -> Tensor:
    """Return the quantities of `Truth` for every population, float64 [P, 1 + K]."""
    return torch.cat([particles.log_z[:, None], particles.expectation(_nearest)], 1)


@functools.cache
def truth(dim: int, particles: int) -> Truth:
    """Return the truth of the energy at the last level, for runs of one population with this many particles."""
    energy = copy.deepcopy(target(dim, torch.device("cpu"))).double()
    size = min(particles, LARGEST_POPULATION)
    runs = smc.sample(
        energy,
        (dim,),
        calibration(dim, torch.device("cpu")),
        particles=size,
        populations=POPULATIONS,
        weights="energy",
        seed=1,
    )
    answers = answer(runs)
    # the deviation falls with the root of the number of particles, so fewer can measure it
    sd = answers.std(0) * math.sqrt(size / particles)
    if dim == 2:
        return Truth(_integrals(), sd)
    # the mean over runs has an error of its own, whose square adds to that of one run
    return Truth(answers.mean(0), sd * math.sqrt(1 + particles / (size * POPULATIONS)))


@functools.cache
def _integrals() -> Tensor:
    """Integrate the energy in two dimensions at its last level, [1 + K].

    The trapezoidal rule runs over a square that holds all of the mass, once in a process because it takes seconds.
    """
    energy = copy.deepcopy(target(2, torch.device("cpu"))).double()
    points = torch.linspace(-4, 4, 801, dtype=torch.float64)
    x = torch.cartesian_prod(points, points)
    with torch.no_grad():
        log_density = -energy.energy(x, SIGMA_MIN[2])
    log_mass = log_density.logsumexp(0)
    log_z = log_mass + 2 * math.log(8 / 800) - math.log(2 * math.pi * SIGMA_MAX**2)
    masses = (log_density - log_mass).exp() @ _nearest(x)
    return torch.cat([log_z[None], masses])
