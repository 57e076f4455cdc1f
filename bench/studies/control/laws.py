"""The laws that `bench.studies.control` compares, each with as many steps as its budget of evaluations allows.

A forward pass of a model and a vector–Jacobian product (vjp) through it count alike, for each model of a product.
A law with a vjp in every step thus gets half the steps of one without. The exact mixture stands for a network: a
score costs a forward, an energy with its score a forward and a vjp, and a trace of a denoiser a vjp for each
probe. An exact trace, which networks do not have, counts as one vjp, and as two for the score of an energy. The
pilot runs of `smc.calibrate` are not counted, since one serves all later runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from bench.rivals import control as rivals
from bench.rivals.control import Outcome
from bench.rivals.control.outcome import from_particles
from bench.studies.control.tasks import SIGMA_MAX, SIGMA_MIN, Task
from edmfast import smc
from edmfast.sampling import get_sigmas_karras

REFERENCE_STD = 0.3
"""The standard deviation of the Gaussian reference of RNE and of CREPE's kernel, in units of x. It gives both the
smallest variance among 0.3, 0.37, 0.45 (the width of components) and 0.6 (that of all digits)."""
HYBRID_SWITCH = 0.3
"""The level below which hybrid weights are those of reversals, in units of x."""


class Size(NamedTuple):
    """The size of a run. budget: evaluations of each model per particle, forwards and vjps together."""

    particles: int
    populations: int
    threshold: float
    budget: int
    pilot: int


def levels(steps: int) -> list[float]:
    """Return steps + 1 noise levels of Karras et al. 2022."""
    return get_sigmas_karras(steps + 1, SIGMA_MIN, SIGMA_MAX)[:-1].tolist()


@dataclass(frozen=True)
class Law:
    """A law, and the evaluations of each model that a step of it takes."""

    name: str
    cost: float
    run: Callable[[Task, list[float], Size, int], Outcome]
    products_only: bool = False

    def steps(self, size: Size) -> int:
        return int(size.budget / self.cost)

    def __call__(self, task: Task, size: Size, seed: int) -> Outcome:
        return self.run(task, levels(self.steps(size)), size, seed)


def run_ours(
    task: Task,
    sigmas: Any,
    size: Size,
    seed: int,
    *,
    energies: bool = False,
    traces: bool = True,
    **options: Any,
) -> smc.Particles:
    """Return a run of `smc.sample` in float64, where the exact mixtures are at home."""
    chosen = {"ess_threshold": size.threshold, **options}
    return smc.sample(
        task.target(energies=energies, traces=traces),
        task.shape,
        sigmas,
        particles=size.particles,
        populations=size.populations,
        seed=seed,
        # weights that vary much are what the tables show
        options=smc.RunOptions(dtype=torch.float64, on_degenerate="ignore"),
        **chosen,
    )


def _rival(law: Any, *, weighs: bool = True, energies: bool = False, **options: Any) -> Any:
    def run(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
        sizes = {"particles": size.particles, "populations": size.populations, "seed": seed}
        threshold = {"threshold": size.threshold} if weighs else {}
        terms = task.terms(energies=energies)
        return law(terms, task.shape, sigmas, **sizes, **threshold, **options)

    return run


def _energies(*, equalise: bool) -> Any:
    def run(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
        target = task.target(energies=True)
        fitted = smc.calibrate(
            target, task.shape, sigmas, particles=size.pilot, equalise=equalise, sigma_lo=0.0
        )
        result = run_ours(task, fitted, size, seed, energies=True, weights="energy")
        return from_particles(result, task.exponents)

    return run


def _hybrid(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
    target = task.target(energies=True)
    fitted = smc.calibrate(
        target, task.shape, sigmas, particles=size.pilot, equalise=False, sigma_lo=0.0
    )
    weights = smc.Hybrid(above=HYBRID_SWITCH)
    result = run_ours(task, fitted, size, seed, energies=True, weights=weights)
    below = sum(sigma < HYBRID_SWITCH for sigma in sigmas)
    # the trace of an energy's score goes back through two passes of the network
    return from_particles(result, task.exponents, traces=2 * below * len(task.models))


def _reversal(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
    result = run_ours(task, sigmas, size, seed, weights="reversal")
    traces = len(task.models) * (len(sigmas) - 1)
    return from_particles(result, task.exponents, traces=traces)


def _probed(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
    result = run_ours(task, sigmas, size, seed, traces=False, weights="reversal")
    return from_particles(result, task.exponents)


def _calibrated(*, equalise: bool) -> Any:
    def run(task: Task, sigmas: list[float], size: Size, seed: int) -> Outcome:
        target = task.target(traces=False)
        fitted = smc.calibrate(
            target,
            task.shape,
            sigmas,
            particles=size.pilot,
            weights="reversal",
            equalise=equalise,
        )
        result = run_ours(task, fitted, size, seed, traces=False, weights="reversal")
        return from_particles(result, task.exponents)

    return run


LAWS = (
    Law("scaled scores, no weights", 1, _rival(rivals.scaled_scores, weighs=False)),
    Law("FKC, target score", 1, _rival(rivals.feynman_kac_corrector)),
    Law("FKC, tempered noise", 1, _rival(rivals.feynman_kac_corrector, tempered_noise=True)),
    Law("SuperDiff AND", 1, _rival(rivals.superdiff, weighs=False), products_only=True),
    Law("RNE, Gaussian reference", 1, _rival(rivals.path_ratios, reference_std=REFERENCE_STD)),
    Law("DriftLite, exact traces", 2, _rival(rivals.drift_control)),
    Law("DriftLite, 1 probe", 2, _rival(rivals.drift_control, probes=1)),
    Law("reversal, exact traces", 2, _reversal),
    Law("reversal, 1 probe", 2, _probed),
    Law("reversal, calibrated probes", 2, _calibrated(equalise=False)),
    Law("reversal, calibrated levels too", 2, _calibrated(equalise=True)),
    Law(
        "CREPE, energies",
        2,
        _rival(rivals.replica_exchange, weighs=False, energies=True, data_std=REFERENCE_STD),
    ),
    Law("energies, curvature matched", 2, _energies(equalise=False)),
    Law("energies, equalised levels", 2, _energies(equalise=True)),
    Law("hybrid, exact traces", 2.6, _hybrid),
)
