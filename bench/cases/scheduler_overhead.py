"""Time whole runs of schedulers of diffusers beside the network, which returns a kept tensor, against ours.

Each case is a class of diffusers with its default settings, and 20 steps of a batch of latent images, from
`set_timesteps` on. Ours has the same configuration. A class that also returns the predicted clean samples, as
Euler and Heun do, needs two passes over the states in every step, and the multistep classes need one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.registry import Case
from bench.rivals import schedulers

STEPS = 20
SHAPE = (4, 3, 64, 64)
NAMES = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
GOAL = 5.0
"""The ratio (time of diffusers / our time) that every class should reach."""


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return the samples of the first call, and the tensor that the network returns."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, *shape, generator=generator).to(device, dtype))


def job(scheduler: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(schedulers.run, scheduler, STEPS)


def make_case(name: str, ours: Any, theirs: Any) -> Case:
    def reference(sample: Tensor, output: Tensor) -> Tensor:
        return schedulers.run(theirs, STEPS, sample.double(), output.double())

    return Case(
        name=f"scheduler overhead/{name} {'x'.join(map(str, SHAPE))}",
        shape=SHAPE,
        make_inputs=make_inputs,
        ours=job(ours),
        baselines={"diffusers": job(theirs)},
        reference=reference,
        check=close(1e-4, 1e-4),
        goal=GOAL,
        # a step reads the samples and the output, and writes the samples
        bytes=4 * 3 * STEPS * math.prod(SHAPE),
        devices=("cpu",),
        needs="diffusers",
    )


CASES = [
    make_case(name, *pair) for name in NAMES for pair in [schedulers.pair(name)] if pair is not None
]
