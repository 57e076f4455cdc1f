"""Samples of a model for an evaluation: the solvers by name, and the grid that spends a number of model calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast import sampling
from edmfast._internal.seeds import signed
from edmfast.models.protocols import Denoiser
from edmfast.ops import standard_normal
from edmfast.sampling import solvers
from edmfast.sampling.engine import Call, Solver
from edmfast.sampling.schedules.sigmas import karras_levels

SOLVERS: dict[str, Solver] = {
    "euler": solvers.Euler(),
    "heun": solvers.Heun(),
    "dpm_2": solvers.DPM2(),
    "dpmpp_2m": solvers.DPMSolverPP2M(),
    "dpmpp_3m": solvers.DPMSolverMultistep(order=3),
    "unipc": solvers.UniPC(),
    "deis": solvers.DEIS(),
    "ipndm": solvers.IPNDM(),
    "euler_ancestral": solvers.AncestralEuler(),
    "dpmpp_2m_sde": solvers.DPMSolverPP2MSDE(),
    "dpmpp_sde": solvers.DPMSolverPPSDE(),
}
"""The solvers by the names that `evaluate` and the command line take."""
_START_STREAM = 1
_RHO = 7.0


@dataclass(frozen=True)
class Grid:
    """The noise levels float64 [T + 1] of a run, largest first and 0 last, and the model calls that it takes."""

    sigmas: Tensor
    calls: int


def as_solver(solver: str | Solver) -> Solver:
    """Return the solver of that name, or the object itself. Raises ValueError or TypeError for anything else."""
    if isinstance(solver, Solver):
        return solver
    if not isinstance(solver, str):
        raise TypeError(
            f"solvers must hold names or objects of edmfast.sampling.solvers, got {solver!r}"
        )
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(SOLVERS)}")
    return SOLVERS[solver]


def grid_of(solver: Solver, nfe: int, sigma_min: float, sigma_max: float) -> Grid:
    """Return the finest Karras grid on which a solver takes at most nfe model calls.

    Raises ValueError where not even one step is so cheap.
    """
    for steps in range(nfe, 0, -1):
        levels = karras_levels(steps, sigma_min, sigma_max, _RHO)
        sigmas = torch.cat([levels, levels.new_zeros(1)])
        try:
            work = [part for step in solver.steps(tuple(sigmas.tolist())) for part in step.work]
        except ValueError:
            continue  # some solvers have no step over so few levels
        calls = sum(isinstance(part, Call) for part in work)
        if calls <= nfe:
            return Grid(sigmas, calls)
    raise ValueError(f"{type(solver).__name__} has no grid of at most {nfe} model calls")


def draw_samples(
    model: Denoiser,
    solver: Solver,
    sigmas: Tensor,
    shape: tuple[int, ...],
    count: int,
    *,
    batch_size: int,
    seed: int,
    like: Tensor,
    condition: Mapping[str, Tensor],
) -> Iterator[Tensor]:
    """Draw samples from noise, and yield every batch [B, *shape].

    The noise of sample k depends on (seed, k) alone. like: a tensor of the dtype and the device of the states.
    condition: tensors [count], of which each batch gets its rows.
    """
    for first in range(0, count, batch_size):
        rows = slice(first, min(first + batch_size, count))
        size = rows.stop - first
        empty = like.new_empty(1, size, *shape)
        noise = standard_normal(empty, seed=seed, stream=_START_STREAM, first_particle=first)[0]
        seeds = torch.tensor([signed((seed + k) % 2**64) for k in range(first, rows.stop)])
        yield sampling.sample(
            model,
            noise * float(sigmas[0]),
            sigmas.to(like),
            solver,
            extra_args={name: value[rows] for name, value in condition.items()},
            disable=True,
            seed=seeds,
        )
