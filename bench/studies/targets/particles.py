"""Sequential Monte Carlo on DW4 and LJ13 with learned energies, against Hamiltonian Monte Carlo.

A noised particle system has no closed form. The energy is learned by denoising score matching from reference
samples. They are centred and then shifted by the Gaussian centre of the energy's Gaussian part (see
`PairwiseMLP`); the network knows the other symmetries. Sequential Monte Carlo runs on that energy down to a
small sigma. Three answers are compared with reference samples from other chains: the particles as they are;
the particles denoised once; and the particles reweighted to the true energy, by log-weights E_model(x,
sigma_min) - E_true(x) with the same Gaussian centre in both. The effective sample size says how far the last
can be trusted.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from bench.studies.targets import chains as targets_chains
from bench.studies.targets.report import Row, evenly, mean, wasserstein_1d
from edmfast import smc
from edmfast.analytic.systems import DoubleWellPairs, LennardJones, ParticleSystem
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, PairwiseMLP


class Plan(NamedTuple):
    """The settings that learn and sample a system.

    chains, burn_in, draws, thin: of the reference. sigmas: the two ends.
    """

    system: type[DoubleWellPairs] | type[LennardJones]
    chains: int
    burn_in: int
    draws: int
    thin: int
    network: dict[str, int]
    batch_size: int
    steps: int
    sigmas: tuple[float, float]
    populations: int
    particles: int
    levels: int


PLANS = {
    "DW4": Plan(
        DoubleWellPairs, 1000, 800, 20, 50, {"width": 64}, 256, 4000, (20.0, 0.05), 10, 500, 48
    ),
    "LJ13": Plan(
        LennardJones,
        800,
        500,
        20,
        20,
        {"width": 64, "depth": 3},
        64,
        1800,
        (10.0, 0.02),
        6,
        400,
        64,
    ),
}
COMPARED = 500


def run(name: str, quick: bool) -> list[Row]:
    """Run the system `name`, "DW4" or "LJ13". quick: only see that it runs."""
    plan = PLANS[name]
    if quick:
        plan = plan._replace(
            chains=50,
            burn_in=100,
            draws=4,
            thin=5,
            batch_size=16,
            steps=20,
            populations=3,
            particles=20,
            levels=6,
        )
    began = time.perf_counter()
    chains = targets_chains.run(
        plan.system(),
        chains=plan.chains,
        burn_in=plan.burn_in,
        draws=plan.draws,
        thin=plan.thin,
        step=0.05,
    )
    rows = _reference_rows(name, plan.system(), chains, time.perf_counter() - began)
    half = plan.chains // 2
    model, trained = learn(name, plan, chains.x[:, :half].flatten(0, 1), compile=not quick)
    return rows + trained + sample(name, plan, model, chains.x[:, half:].flatten(0, 1))


def learn(
    name: str, plan: Plan, centred: Tensor, *, compile: bool
) -> tuple[EnergyModel, list[Row]]:
    """Learn an energy from centred samples [n, particles, dimensions]; return it with the cost of its training."""
    deviation = float(centred.std())
    particles = centred.shape[1]
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(len(centred), 1, centred.shape[2], generator=generator)
    data = centred.float() + deviation / math.sqrt(particles) * shift
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PairwiseMLP(**{**PairwiseMLP.PRESETS[name], **plan.network})
    model = EnergyModel(network, sigma_data=deviation)
    config = DistillConfig(
        mode="dsm",
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=2e-3,
        p_mean=math.log(deviation) - 1.2,
        p_std=1.4,
        ema_decay=0.998,
        compile=compile,
    )
    began = time.perf_counter()
    result = distill(None, model, data, config=config, progress=False)
    late = result.losses[-max(1, plan.steps // 10) :]
    return model, [
        Row(name, "training", "seconds", time.perf_counter() - began),
        Row(name, "training", "steps", plan.steps),
        Row(name, "training", "batch size", plan.batch_size),
        mean(name, "training", "loss, last tenth", late),
    ]


def sample(name: str, plan: Plan, model: EnergyModel, reference: Tensor) -> list[Row]:
    """Compare runs of the learned energy with reference samples [n, particles, dimensions]."""
    low = plan.sigmas[1]
    particles, dimensions = reference.shape[1:]
    first, last = (math.log10(sigma) for sigma in plan.sigmas)
    levels = torch.logspace(first, last, plan.levels, dtype=torch.float64)
    shape = (particles, dimensions)
    calibration = smc.calibrate(model, shape, levels, particles=100, pilot_steps=plan.levels)
    run_result = smc.sample(
        model,
        shape,
        calibration,
        particles=plan.particles,
        populations=plan.populations,
        weights="energy",
        seed=1,
    )
    x = run_result.x.flatten(0, 1)
    centre_std = math.sqrt((low**2 + model.sigma_data**2) / particles)
    truth = plan.system(centre_std=centre_std)
    with torch.no_grad():
        model_energy = model.energy(x, low).double()
        denoised = model(x, low)
    change = model_energy - truth.energy(x.double())
    reweighted = run_result.log_weights + change.nan_to_num(-torch.inf).reshape(
        run_result.x.shape[:2]
    )
    share = reweighted.softmax(1)
    rows = [
        Row(name, "learned energy", "particles", plan.particles),
        Row(name, "learned energy", "evaluations per particle", run_result.nfe),
        mean(
            name, "learned energy", "effective sample size / N", run_result.ess[-1] / plan.particles
        ),
        mean(
            name,
            "learned energy",
            "unique ancestors / N",
            run_result.unique_ancestors / plan.particles,
        ),
        mean(name, "learned energy", "resamplings", run_result.resampled.sum(0)),
    ]
    answers = {
        "learned energy": (run_result.x, run_result.weights),
        "learned energy, denoised once": (denoised.reshape(run_result.x.shape), run_result.weights),
        "reweighted to the true energy": (run_result.x, share),
    }
    for answer, (states, weights) in answers.items():
        if weights is share:
            size = 1 / share.square().sum(1)
            rows.append(mean(name, answer, "effective sample size / N", size / plan.particles))
        rows += _compared(name, answer, plan.system(), states, weights, reference)
    return rows


def _compared(
    name: str,
    answer: str,
    system: ParticleSystem,
    x: Tensor,
    weights: Tensor,
    reference: Tensor,
) -> list[Row]:
    """Compare energies and distances between particles of each population with the reference."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(reference), generator=generator)
    n = min(COMPARED, x.shape[1], len(reference) // (2 * len(x)))
    sets = reference[order[: 2 * n * len(x)]].unflatten(0, (2, len(x), n))
    ours = torch.stack([evenly(a, w, n).double() for a, w in zip(x, weights, strict=True)])
    measures = {
        "energy": lambda states: system.energy(states),
        "distance": lambda states: system.distances(states).flatten(),
    }
    rows = []
    for quantity, measure in measures.items():
        a, b, c = ([measure(states) for states in group] for group in (ours, sets[0], sets[1]))
        truth = measure(reference)
        distance = torch.tensor([wasserstein_1d(p, q) for p, q in zip(a, b, strict=True)])
        floor = [wasserstein_1d(p, q) for p, q in zip(c, b, strict=True)]
        median = torch.stack([values.median() for values in a])
        rows += [
            mean(name, answer, f"{quantity}, median", median, float(truth.median())),
            mean(
                name,
                answer,
                f"{quantity}, mean",
                torch.stack([p.mean() for p in a]),
                float(truth.mean()),
            ),
            mean(name, answer, f"{quantity} W2", distance, sum(floor) / len(floor)),
        ]
    return rows


def _reference_rows(
    name: str, system: ParticleSystem, chains: targets_chains.Chains, seconds: float
) -> list[Row]:
    energy = system.energy(chains.pooled).reshape(chains.x.shape[:2])
    spread = system.distances(chains.pooled).mean(1).reshape(energy.shape)
    return [
        Row(name, "reference", "seconds", seconds),
        Row(name, "reference", "acceptance", chains.acceptance),
        mean(name, "reference", "energy, mean", energy.mean(0)),
        mean(name, "reference", "distance, mean", spread.mean(0)),
        Row(name, "reference", "mixing of energies", targets_chains.mixing(energy), truth=1.0),
        Row(name, "reference", "mixing of distances", targets_chains.mixing(spread), truth=1.0),
    ]
