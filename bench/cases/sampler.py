"""Time whole runs of sequential Monte Carlo, against the network alone and against unweighted sampling.

"network alone" calls the network as often and at the same shapes as the run, with the curvature probe where the
run has one: its time over ours is the sampler's efficiency. "ancestral" is the plain ancestral sampler with as
many calls of the network: the difference is the price of weights.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from bench.cases import sampler_targets
from bench.cases.sampler_targets import STEPS, Truth, answer, calibration, levels, target
from bench.harness.registry import Case
from edmfast import sampling, smc
from edmfast.models.together import energy_score_and_curvature

EVALUATIONS = STEPS + 1
MORE_WORK = (
    "The ancestral sampler draws without weights: it needs no energies, no resampling and no probe. The run "
    "cannot be faster than its network, whose time stands beside it."
)


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return the levels; every run draws its own start."""
    return (torch.tensor(levels(shape[1]), dtype=torch.float64, device=device),)


@functools.cache
def _states(shape: tuple[int, ...], device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device)


def run(
    particles: int, dim: int, probe: bool, sigmas: Tensor, populations: int = 1
) -> smc.Particles:
    device = sigmas.device
    schedule = sigmas if probe else calibration(dim, device)
    model = target(dim, device)
    # the rival weighs by energies at all levels too
    return smc.sample(
        model,
        (dim,),
        schedule,
        particles=particles,
        populations=populations,
        weights="energy",
    )


def network_alone(particles: int, dim: int, probe: bool, sigmas: Tensor) -> None:
    model, x = target(dim, sigmas.device), _states((particles, dim), sigmas.device)
    _call_network(model, x, probe, sigmas)


def _call_network(model: Any, x: Tensor, probe: bool, sigmas: Tensor) -> None:
    for index in range(EVALUATIONS):
        if probe and index < STEPS:
            ones = torch.ones_like(x)
            if energy_score_and_curvature(model, x, sigmas[index], ones) is None:
                leaf = x.detach().requires_grad_()
                _, score = model.energy_and_score(leaf, sigmas[index])
                torch.autograd.grad(score, leaf, ones)
        else:
            with torch.no_grad():
                model.energy_and_score(x, sigmas[index])


def ancestral(particles: int, dim: int, sigmas: Tensor) -> None:
    model = target(dim, sigmas.device)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma[0])  # all rows share one level, as in the run

    start = sampler_targets.SIGMA_MAX * _states((particles, dim), sigmas.device)
    # with a last 0 the sampler calls the network at every level, as often as the run does
    ending = torch.cat([sigmas, sigmas.new_zeros(1)])
    sampling.sample_euler_ancestral(denoise, start, ending, disable=True)


def check(output: smc.Particles, truth: Truth) -> None:
    """Check that the answer is within five standard deviations of the truth."""
    off = (answer(output)[0].cpu() - truth.value).abs() / truth.sd
    assert off.max() < 5, (
        f"{off.max():.1f} standard deviations from the truth at place {off.argmax()} of log Z and the "
        "masses of the modes"
    )


def case(particles: int, dim: int, *, probe: bool, gpu: bool | None = None) -> Case:
    """Return a case.

    probe: True for a Hutchinson probe at every step, as in a run without a calibration. Such a run needs 3 F flops
    per network call (the last one 2 F), and the ancestral sampler 2 F, so that about .7 of its speed is possible.
    gpu: whether the case is for a GPU, where weights should take a tenth of the run in 2-D; None where one case
    serves both.
    """
    products = target_products(dim)
    multiples = 3 * STEPS + 2 if probe else 2 * EVALUATIONS
    return Case(
        name=f"sampler/{particles}x{dim} {'probed' if probe else 'calibrated'}{' gpu' if gpu else ''}",
        shape=(particles, dim),
        make_inputs=make_inputs,
        ours=functools.partial(run, particles, dim, probe),
        baselines={
            "ancestral": functools.partial(ancestral, particles, dim),
            "network alone": functools.partial(network_alone, particles, dim, probe),
        },
        reference=lambda sigmas: sampler_targets.truth(dim, particles),
        check=check,
        # nine tenths of the ratio of flops, as for the network alone
        goal=round(0.9 * 2 * EVALUATIONS / multiples, 3) if probe else 1 / 1.1 if gpu else 0.8,
        goals={"network alone": 0.9 if probe else 0.97 if gpu else 0.95},
        bounds=("network alone",),
        unchecked=("ancestral", "network alone"),
        inner="network alone",
        evaluations=particles * EVALUATIONS,
        rounds=5,
        flops=multiples * 2 * products * particles,
        why_slower=MORE_WORK,
        devices=("cpu", "cuda") if gpu is None else ("cuda",) if gpu else ("cpu",),
    )


def target_products(dim: int) -> int:
    """Count the multiplications of one forward of the network for one particle."""
    width, depth = (64, 3) if dim == 2 else (128, 4)
    return 2 * dim * width + depth * width**2


CASES = [
    case(1 << 20, 2, probe=False, gpu=False),
    case(1 << 20, 2, probe=False, gpu=True),
    case(1 << 16, 2, probe=True),
    case(4096, 64, probe=False),
    case(4096, 64, probe=True),
]
