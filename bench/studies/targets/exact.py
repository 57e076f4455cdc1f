"""Sequential Monte Carlo on two hard targets that are exact at every noise level: GMM-40 and ManyWell-32.

The levels are equalised by `smc.calibrate`, whose pilot does not count as evaluations. Equalised levels suit
curvature matching, so the other kernels also run on as many levels evenly spaced in log sigma. Distances compare
1000 particles of each population, drawn with their weights, with as many exact samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.studies.targets import report as targets_report
from bench.studies.targets.report import Row, evenly, mean
from edmfast import analytic, smc
from edmfast.diagnostics import mode_masses, sliced_wasserstein
from edmfast.targets import Tempered


class Size(NamedTuple):
    """The size of a run.

    That is populations, particles in each, levels, particles and steps of the pilot, and samples that are
    compared.
    """

    populations: int
    particles: int
    levels: int
    pilot: int
    pilot_steps: int
    compared: int = 1000


GMM40 = Size(20, 4000, 33, 1000, 128)
MANY_WELL = Size(20, 1000, 65, 200, 96)
QUICK_GMM40 = Size(20, 1000, 17, 500, 48, 200)
QUICK_MANY_WELL = Size(20, 150, 33, 60, 40, 60)
GMM40_SIGMAS = (80.0, 0.1)
MANY_WELL_SIGMAS = (20.0, 0.05)
KERNELS = ("curvature_matched", "ancestral", "euler")


def gmm40(gamma: float, size: Size, kernels: tuple[str, ...] = KERNELS) -> list[Row]:
    """Run p^gamma for gamma 1 or 2."""
    mixture = analytic.gmm40()
    target: Any = mixture if gamma == 1 else Tempered(mixture, gamma)
    law, log_mass = gmm40_law(gamma)
    truth = gmm40_masses(gamma)
    rows = []
    for kernel, outcome in _runs(target, 2, GMM40_SIGMAS, size, kernels):
        name = f"gamma={gamma:g} {kernel}"
        add = functools.partial(mean, "GMM-40", name)
        masses = torch.stack(
            [
                mode_masses(x, mixture.means, w)
                for x, w in zip(outcome.x, outcome.weights, strict=True)
            ]
        )
        log_z = outcome.log_z + math.log(2 * math.pi * GMM40_SIGMAS[0] ** 2 / gamma)
        rows += [
            *_traces("GMM-40", name, outcome),
            add("modes found", (masses > 0).sum(1), 40),
            add("log Z", log_z, log_mass),
            add("Z / truth", (log_z - log_mass).exp(), 1.0),
            add(
                "masses, total variation",
                (masses - truth).abs().sum(1) / 2,
                _variation(truth, size.particles),
            ),
        ]
        energy = functools.partial(mixture.energy, sigma=GMM40_SIGMAS[1])
        rows += _distances(
            "GMM-40",
            name,
            outcome,
            energy,
            lambda n, seed: law.sample(n, seed=seed),
            size.compared,
            planar=True,
        )
    return rows


def many_well(size: Size, kernels: tuple[str, ...] = KERNELS) -> list[Row]:
    """Run ManyWell with 32 elements, log Z = 164.6957."""
    target = analytic.ManyWell(32)
    low = MANY_WELL_SIGMAS[1]
    rows = []
    for kernel, outcome in _runs(target, 32, MANY_WELL_SIGMAS, size, kernels):
        add = functools.partial(mean, "ManyWell-32", kernel)
        log_z = outcome.log_z + 16 * math.log(2 * math.pi * MANY_WELL_SIGMAS[0] ** 2)
        left = outcome.expectation(lambda x: (x[..., ::2] < 0).double())
        rows += [
            *_traces("ManyWell-32", kernel, outcome),
            add("log Z", log_z, target.log_z),
            add("Z / truth", (log_z - target.log_z).exp(), 1.0),
            add("mass of the left wells", left.mean(1), target.left_mass(low)),
            add(
                "the same, rms error over wells",
                (left - target.left_mass(low)).square().mean(1).sqrt(),
                math.sqrt(target.left_mass(low) * (1 - target.left_mass(low)) / size.particles),
            ),
        ]
        rows += _distances(
            "ManyWell-32",
            kernel,
            outcome,
            functools.partial(target.energy, sigma=low),
            lambda n, seed: target.sample(n, low, seed=seed),
            size.compared,
        )
    return rows


def gmm40_law(gamma: float) -> tuple[analytic.GaussianMixture, float]:
    """Return p^gamma at the last level as a mixture, and the log of its integral; gamma = 2 pairs all modes."""
    mixture, low = analytic.gmm40(), GMM40_SIGMAS[1]
    variance = float(mixture.stds[0]) ** 2 + low**2
    if gamma == 1:
        return analytic.GaussianMixture(mixture.means, [math.sqrt(variance)] * 40), 0.0
    if gamma != 2:
        raise ValueError(f"gamma must be 1 or 2, got {gamma}")
    gap = torch.cdist(mixture.means, mixture.means).square().flatten() / (4 * variance)
    means = (mixture.means[:, None] + mixture.means).flatten(0, 1) / 2
    pairs = analytic.GaussianMixture(means, [math.sqrt(variance / 2)] * 1600, (-gap).exp())
    return pairs, float(torch.logsumexp(-gap, 0)) - math.log(1600 * 4 * math.pi * variance)


@functools.cache
def gmm40_masses(gamma: float) -> Tensor:
    """Return the mass of p^gamma nearest to each mode by a sum over a grid, [40].

    Overlap makes them differ from 1/40.
    """
    axis = torch.arange(-50, 50.01, 0.2, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mixture = analytic.gmm40()
    density = (gamma * mixture.log_prob(grid, GMM40_SIGMAS[1])).exp()
    return mode_masses(grid, mixture.means, density)


def _variation(masses: Tensor, particles: int) -> float:
    """Return the expected total variation of this many independent draws, whose counts are nearly normal."""
    spread = (masses * (1 - masses) / particles).sqrt()
    return float(spread.sum() / math.sqrt(2 * math.pi))


def _runs(
    target: Any,
    dim: int,
    sigmas: tuple[float, float],
    size: Size,
    kernels: tuple[str, ...],
) -> list[tuple[str, smc.Particles]]:
    """Run the kernels on the same levels, in float32."""
    high, low = (math.log10(sigma) for sigma in sigmas)
    levels = torch.logspace(high, low, size.levels, dtype=torch.float64)
    calibration = smc.calibrate(
        target, (dim,), levels, particles=size.pilot, pilot_steps=size.pilot_steps
    )
    outcome = []
    for kernel in kernels:
        matched = kernel == "curvature_matched"
        settings: dict[str, Any] = {kernel: calibration if matched else calibration.sigmas}
        if not matched:
            settings[f"{kernel}, even levels"] = levels
        for name, sigmas_of in settings.items():
            particles = smc.sample(
                target,
                (dim,),
                sigmas_of,
                particles=size.particles,
                populations=size.populations,
                proposal=kernel,
                options=smc.RunOptions(dtype=torch.float32),
                seed=1,
            )
            outcome.append((name, particles))
    return outcome


def _traces(target: str, name: str, outcome: smc.Particles) -> list[Row]:
    share = 1 / outcome.x.shape[1]
    return [
        Row(target, name, "particles", outcome.x.shape[1]),
        Row(target, name, "evaluations per particle", outcome.nfe),
        mean(target, name, "effective sample size / N", outcome.ess[-1] * share),
        mean(target, name, "least of all levels / N", outcome.ess.amin(0) * share),
        mean(target, name, "unique ancestors / N", outcome.unique_ancestors * share),
        mean(target, name, "resamplings", outcome.resampled.sum(0)),
    ]


def _distances(
    target: str,
    name: str,
    outcome: smc.Particles,
    energy: Callable[[Tensor], Tensor],
    exact: Callable[[int, int], Tensor],
    n: int,
    *,
    planar: bool = False,
) -> list[Row]:
    """Return distances to exact samples; as the truth, those between two sets of exact samples."""
    measures: dict[str, Callable[[Tensor, Tensor], float]] = {
        "energy W2": lambda a, b: targets_report.wasserstein_1d(energy(a), energy(b)),
        "sliced W2": lambda a, b: sliced_wasserstein(a, b, projections=64),
    }
    if planar:
        measures["W2"] = targets_report.wasserstein
    count = len(outcome.x)
    ours = [evenly(x, w, n).double() for x, w in zip(outcome.x, outcome.weights, strict=True)]
    others = [exact(n, 2 * p) for p in range(count)]
    more = [exact(n, 2 * p + 1) for p in range(count)]
    rows = []
    for quantity, distance in measures.items():
        floor = [distance(a, b) for a, b in zip(more, others, strict=True)]
        values = torch.tensor([distance(a, b) for a, b in zip(ours, others, strict=True)])
        rows.append(mean(target, name, quantity, values, sum(floor) / count))
    return rows
