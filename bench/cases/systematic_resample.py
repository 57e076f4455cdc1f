"""Time systematic resampling from log-weights [P, N].

The baselines are plain torch, a hand-written loop on one thread, and the functions of other projects where they
are installed.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor

from bench.harness import laws, orders
from bench.harness.registry import Case
from bench.rivals import plain_loop
from bench.rivals import resamplers as peers
from edmfast.ops import systematic_resample

Inputs = tuple[Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.randn(shape, dtype=dtype, generator=generator)
    uniform = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    return log_weights.to(device), uniform.to(device)


def ours(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Resample, and compute the effective sample size and the log-mean-weight as well."""
    return systematic_resample(log_weights, uniform).ancestors


def counting(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Use the quickest correct way in plain torch: count the slots before each weight, then repeat."""
    populations, n = log_weights.shape
    cdf = log_weights.double().softmax(1).cumsum(1)
    ends = torch.ceil(n * cdf - uniform[:, None]).long().clamp_(0, n)
    # rounding may leave the last sum below 1, and the last slots without an owner
    ends[:, -1] = n
    counts = ends.diff(dim=1, prepend=ends.new_zeros(populations, 1))
    index = torch.arange(n, device=ends.device).repeat(populations)
    repeated = torch.repeat_interleave(index, counts.flatten(), output_size=populations * n)
    return repeated.view(populations, n)


def searching(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Use the common way: a binary search of every slot in the cumulative weights, in float64."""
    n = log_weights.shape[1]
    cdf = log_weights.double().softmax(1).cumsum(1)
    slots = (torch.arange(n, device=cdf.device) + uniform[:, None]) / n
    # rounding may leave the last sum below a slot
    return torch.searchsorted(cdf, slots, right=True).clamp_(max=n - 1)


def reference(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the exact expectation of the offspring."""
    return log_weights.shape[1] * log_weights.double().softmax(1)


check = laws.check_systematic


def hand_written() -> dict[str, peers.Resampler]:
    if plain_loop.compiler() is None:
        print("bench: no C++ compiler, so no hand-written loop to compare with", file=sys.stderr)
        return {}
    return {"C loop": plain_loop.plain_resample}


_graph = orders.compiled_forward(searching)


def compiled(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Compile the search as one graph; counting offspring is data-dependent and does not fit into one."""
    return _graph(log_weights, uniform)[0]


TORCH = {
    "counting float64": counting,
    "searchsorted float64": searching,
    "compile of searchsorted": compiled,
}
OTHERS, LOOP = peers.resamplers(), hand_written()


def make_case(populations: int, particles: int, goal: float) -> Case:
    return Case(
        name=f"resample/{populations}x{particles}",
        shape=(populations, particles),
        make_inputs=make_inputs,
        ours=ours,
        baselines={**TORCH, **OTHERS, **LOOP},
        reference=reference,
        check=check,
        goal=goal,
        goals=dict.fromkeys(LOOP, 0.77),
        bounds=tuple(LOOP),
        cpu_only=(*OTHERS, *LOOP),
        bytes=8 * populations * (particles + 1),
    )


def gpu_case(particles: int) -> Case:
    """Return a case with a large population on a GPU.

    It should take as long as moving 30 bytes per particle, and an eighth of the common way's time.
    """
    return replace(
        make_case(1, particles, 1.0),
        baselines=TORCH,
        goals={"counting float64": 1.0, "searchsorted float64": 8.0},
        bounds=(),
        cpu_only=(),
        floor_goals={"cuda": 8 / 30},
        devices=("cuda",),
    )


# with a thousand particles, dispatch takes most of a call
CASES = [make_case(1, 10**3, 1.0)]
CASES += [make_case(1, particles, 4.0) for particles in (10**4, 10**5, 10**6)]
CASES += [gpu_case(2**power) for power in (20, 23, 26)]
CASES += [replace(make_case(4096, 16, 5.0), devices=("cuda",))]
CASES += [make_case(*shape, goal=5.0) for shape in ((256, 4), (256, 16), (1024, 64))]
