"""The axes of particles, elements of a state and populations, on one process: a step or a whole run."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.cases import populations as bench_populations
from bench.cases import propagate as bench_propagate
from bench.cases import sampler as bench_sampler
from bench.cases import sampler_targets
from bench.cases import weigh as bench_weigh
from bench.studies.scaling.axes import Axis
from edmfast import smc
from edmfast.ops import Weights, propagate, weigh_and_resample
from edmfast.ops.noise.reference import noise

STEP_DIM = 2
# at smaller sizes a GPU only waits for launches
RUN_CUDA_SIZES = tuple(2**k for k in range(16, 21))
_KERNEL = (0.3, 0.4, 0.5)  # as bench_propagate's, whose check knows them


def _step_inputs(
    populations: int, particles: int, elements: int, device: torch.device
) -> tuple[Any, ...]:
    """Return weights and energies as `bench.cases.weigh` makes them, states and scores, and the kernel."""
    shape = populations, particles
    generator = torch.Generator().manual_seed(1)
    x, score = torch.randn(2, *shape, elements, generator=generator).to(device)
    kernel = torch.tensor([_KERNEL], dtype=torch.float64, device=device).repeat(populations, 1)
    return *bench_weigh.make_inputs(shape, torch.float32, device), x, score, kernel


def _step(
    weights: Weights,
    ratio: Tensor,
    now: Tensor,
    past: Tensor,
    rng: Tensor,
    x: Tensor,
    score: Tensor,
    kernel: Tensor,
) -> tuple[Weights, tuple[Tensor, Tensor]]:
    """Run the part of a step of sequential Monte Carlo that is not the network, with a resampling."""
    after = weigh_and_resample(weights, ratio, now, past, rng, ess_threshold=1.0)
    return after, propagate(x, score, after.ancestors, kernel, rng)


def make_step(
    populations: int, particles: int, elements: int, device: torch.device
) -> Callable[[], Any]:
    return functools.partial(_step, *_step_inputs(populations, particles, elements, device))


def check_step(elements: int, device: torch.device) -> None:
    """Check weights and offspring against float64, and the moves against the ancestors' states."""
    inputs = _step_inputs(3, 4000, elements, device)
    after, moved = _step(*inputs)
    bench_weigh.check(after, bench_weigh.reference(*inputs[:5]))
    x, score = inputs[5:7]
    index = after.ancestors.long()[..., None].expand(x.shape)
    start = x.double().gather(1, index)
    mean = start + _KERNEL[0] * score.double().gather(1, index)
    counted = noise(x, inputs[4], 0, 0, 0).double()
    truth = bench_propagate.Truth(start, mean, counted)
    bench_propagate.check(bench_propagate.Counted(*moved), truth)


def _levels(device: torch.device) -> Tensor:
    return torch.tensor(sampler_targets.levels(STEP_DIM), dtype=torch.float64, device=device)


def make_run(populations: int, particles: int, device: torch.device) -> Callable[[], smc.Particles]:
    sigmas = _levels(device)
    return functools.partial(
        bench_sampler.run, particles, STEP_DIM, False, sigmas, populations=populations
    )


def check_run(populations: int, particles: int, device: torch.device) -> None:
    """Check log Z and the masses of the modes against integrals over a grid."""
    truth = sampler_targets.truth(STEP_DIM, particles)
    bench_populations.check_populations(make_run(populations, particles, device)(), truth)


def make_network(particles: int, device: torch.device) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    """Return the network evaluations of a calibrated run, without anything else."""
    model = sampler_targets.target(STEP_DIM, device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(particles, STEP_DIM, generator=generator).to(device)
    levels = sampler_targets.levels(STEP_DIM)

    @torch.no_grad()
    def call() -> list[tuple[Tensor, Tensor]]:
        return [model.energy_and_score(x, sigma) for sigma in levels]

    return call


def check_network(device: torch.device) -> None:
    """Check against float64 on the CPU."""
    particles, cpu = 4096, torch.device("cpu")
    evaluations = make_network(particles, device)()
    wide = copy.deepcopy(sampler_targets.target(STEP_DIM, cpu)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(particles, STEP_DIM, generator=generator).double()
    for sigma, outputs in zip(sampler_targets.levels(STEP_DIM), evaluations, strict=True):
        with torch.no_grad():
            truth = wide.energy_and_score(x, sigma)
        for output, exact in zip(outputs, truth, strict=True):
            off = (output.cpu() - exact).abs().max() / exact.abs().max()
            assert off < 1e-4, f"{off:.2g} of the largest number off at sigma = {sigma:.3g}"


_RUN = Axis(
    name="N-run",
    unit="particles",
    job=f"smc.sample of a learned energy in 2 dimensions, {sampler_targets.STEPS} steps",
    sizes=tuple(2**k for k in range(8, 19, 2)),
    quick=(256, 1024, 4096),
    cuda_sizes=RUN_CUDA_SIZES,
    cuda_quick=RUN_CUDA_SIZES[::2],
    make=lambda size, device: make_run(1, size, device),
    check=functools.partial(check_run, 1, 4096),
    rounds=5,
)
AXES = [
    Axis(
        name="N-step",
        unit="particles",
        job="weigh_and_resample + propagate of one population in 2 dimensions",
        sizes=tuple(int(10 ** (k / 2)) for k in range(6, 15)),
        quick=(1000, 10_000, 100_000),
        cuda_sizes=tuple(int(10 ** (k / 2)) for k in range(8, 15)),
        cuda_quick=(10**5, 10**6, 10**7),
        make=lambda size, device: make_step(1, size, STEP_DIM, device),
        check=functools.partial(check_step, STEP_DIM),
    ),
    _RUN,
    replace(
        _RUN,
        name="N-network",
        job=f"the {sampler_targets.STEPS + 1} evaluations of that run's energy alone",
        make=make_network,
        check=check_network,
    ),
    Axis(
        name="D",
        unit="elements",
        job="weigh_and_resample + propagate of 256 particles",
        sizes=tuple(4**k for k in range(1, 9)),
        quick=(4, 64, 1024),
        make=lambda size, device: make_step(1, 256, size, device),
        check=functools.partial(check_step, 48),
    ),
    Axis(
        name="P-total",
        unit="populations",
        job="smc.sample of a learned energy in 2 dimensions, 16384 particles in all",
        sizes=tuple(4**k for k in range(7)),
        quick=(1, 16, 256),
        make=lambda size, device: make_run(size, (1 << 14) // size, device),
        check=functools.partial(check_run, 64, 64),
        rounds=5,
    ),
    Axis(
        name="P-each",
        unit="populations",
        job="smc.sample of a learned energy in 2 dimensions, 64 particles in each",
        sizes=tuple(4**k for k in range(6)),
        quick=(1, 4, 16),
        make=lambda size, device: make_run(size, 64, device),
        check=functools.partial(check_run, 64, 64),
        rounds=5,
    ),
]
