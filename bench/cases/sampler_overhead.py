"""Time samplers beside the model: 20 steps whose model returns a kept tensor, against k-diffusion.

The states are a batch of latent images, as text-to-image models have them, small enough to show what a step costs
beside its arithmetic. Both projects get the same model, levels and start. Where noise is drawn, there are two
cases: a Brownian path, which is the default of both, and independent normals.

The answers are known in closed form, since the model always names the same x_0: D. The ODE goes along the line
from x to D, and the SDE has the law of x at the last level given D and x at the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases.sampling import Law, check_law
from bench.harness.correctness import close
from bench.harness.registry import Case
from bench.rivals import sampler_loops
from bench.rivals.samplers import k_diffusion_sampler
from edmfast import sampling

STEPS, SIGMA_MIN, SIGMA_MAX = 20, 0.02, 20.0
SHAPE = (4, 3, 64, 64)
Inputs = tuple[Tensor, Tensor, Tensor]
Job = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return the states at the first level, all levels, and the tensor that the model returns."""
    generator = torch.Generator().manual_seed(0)
    x, kept = torch.randn(2, *shape, generator=generator).to(device, dtype)
    # without a last 0, where every sampler would return the kept tensor itself
    sigmas = sampling.get_sigmas_karras(STEPS + 1, SIGMA_MIN, SIGMA_MAX)[:-1]
    return SIGMA_MAX * x, sigmas.to(device), kept


def on_kept(sampler: Callable[..., Tensor], **options: Any) -> Job:
    """Return the job that runs a sampler on a model that returns a kept tensor."""

    def run(x: Tensor, sigmas: Tensor, kept: Tensor) -> Tensor:
        return sampler(lambda x, sigma: kept, x, sigmas, **options)

    return run


def _independent(x: Tensor) -> Callable[..., Tensor]:
    return lambda *_levels: torch.randn_like(x)


def with_noise(sampler: Callable[..., Tensor], noise: Callable[[Tensor], Any]) -> Job:
    """Return the same job with the noise sampler that `noise` makes for the states."""

    def run(x: Tensor, sigmas: Tensor, kept: Tensor) -> Tensor:
        options = {"disable": True, "noise_sampler": noise(x)}
        return sampler(lambda x, sigma: kept, x, sigmas, **options)

    return run


def end_of_line(x: Tensor, sigmas: Tensor, kept: Tensor) -> Tensor:
    """Return D + (x - D) sigma_T / sigma_0."""
    share = sigmas[-1].double() / sigmas[0].double()
    return kept.double() + share * (x.double() - kept.double())


def law_of_bridge(x: Tensor, sigmas: Tensor, kept: Tensor) -> Law:
    """Return the law of x_T given x_0 and D; with r = (sigma_T / sigma_0)^2 its variance is sigma_T^2 (1 - r)."""
    first, last = sigmas[0].item(), sigmas[-1].item()
    share = (last / first) ** 2
    mean = kept.double() + share * (x.double() - kept.double())
    return Law(mean, last**2 * (1 - share))


class Method(NamedTuple):
    """A sampler by its k-diffusion name.

    goal: the ratio (time of k-diffusion / our time) to reach. loop: the same in plain torch, where bench.rivals
    has it.
    """

    name: str
    goal: float
    loop: sampler_loops.Loop | None = None
    random: bool = False
    independent: bool = False


METHODS = [
    Method("euler", 1.0, sampler_loops.euler),
    Method("heun", 1.0, sampler_loops.heun),
    Method("dpmpp_2m", 3.0, sampler_loops.dpmpp_2m),
    Method("dpmpp_2m_sde", 1.0, random=True),
    Method("dpmpp_3m_sde", 3.0, random=True),
    Method("dpmpp_2m_sde", 1.0, random=True, independent=True),
    Method("dpmpp_3m_sde", 3.0, random=True, independent=True),
]


def _rivals(method: Method) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    theirs = k_diffusion_sampler(method.name)
    if theirs is not None:
        jobs["k-diffusion"] = (
            with_noise(theirs, _independent)
            if method.independent
            else on_kept(theirs, disable=True)
        )
    if method.loop is not None:
        jobs["plain loop"] = on_kept(method.loop)
    if method.independent:
        jobs["bridge in torch"] = bridge
    return jobs


def bridge(x: Tensor, sigmas: Tensor, kept: Tensor) -> Tensor:
    """Draw from the law of the SDE step by step in plain torch: the least that a loop of torch can do."""
    levels = sigmas.tolist()
    for sigma, following in itertools.pairwise(levels):
        share = (following / sigma) ** 2
        x = share * x + (1 - share) * kept
        x = x + following * math.sqrt(1 - share) * torch.randn_like(x)
    return x


def make_case(method: Method, rivals: dict[str, Job]) -> Case:
    ours = getattr(sampling, f"sample_{method.name}")
    name = method.name + (" independent" if method.independent else "")
    return Case(
        name=f"sampler overhead/{name} {'x'.join(map(str, SHAPE))}",
        shape=SHAPE,
        make_inputs=make_inputs,
        ours=(
            with_noise(ours, sampling.default_noise_sampler)
            if method.independent
            else on_kept(ours, disable=True)
        ),
        baselines=rivals,
        reference=law_of_bridge if method.random else end_of_line,
        check=check_law if method.random else close(1e-4, 1e-4),
        goal=1.0,
        goals={"k-diffusion": method.goal} if "k-diffusion" in rivals else {},
        # a step reads the states and D, and writes the states
        bytes=4 * 3 * STEPS * math.prod(SHAPE),
        devices=("cpu",),
        needs="k-diffusion",
    )


# Brownian paths have no rival where k-diffusion is not installed
CASES = [make_case(method, rivals) for method in METHODS for rivals in [_rivals(method)] if rivals]
