"""Many small populations in one run of sequential Monte Carlo, against one of as many particles.

The network sees populations together, so that both should take the same time. Both are ours: it says
nothing about others.
"""

from __future__ import annotations

import functools
import math

from bench import bench_sampler
from bench.registry import Case
from bench.sampler_targets import Truth
from edmfast import smc


def check_populations(found: smc.Particles, truth: Truth) -> None:
    """Of many small populations, the mean of their Z, which has no bias; of one population as above."""
    if len(found.log_z) == 1:
        bench_sampler.check(found, truth)
        return
    ratios = (found.log_z.cpu() - truth.value[0]).exp()
    sd = math.hypot(ratios.std().item() / math.sqrt(len(ratios)), truth.sd[0].item())
    assert abs(ratios.mean() - 1) < 5 * sd, f"the mean of Z is {ratios.mean():.3f} times the truth"


def case(populations: int, particles: int, *, probe: bool) -> Case:
    """Populations of a few particles against one of as many particles."""
    whole = populations * particles
    alone = bench_sampler.case(whole, 64, probe=probe)
    return Case(
        name=f"populations/{populations} of {particles}x64 {'probed' if probe else 'calibrated'}",
        shape=(whole, 64),
        make_inputs=bench_sampler.make_inputs,
        ours=functools.partial(bench_sampler.run, particles, 64, probe, populations=populations),
        baselines={"one population": alone.ours},
        reference=alone.reference,
        check=check_populations,
        goal=1 / 1.1,
        evaluations=alone.evaluations,
        rounds=5,
        flops=alone.flops,
    )


CASES = [case(1000, 4, probe=False), case(1000, 4, probe=True)]
