"""Time many small populations in one run of sequential Monte Carlo, against one of as many particles.

The network evaluates all populations together, so both should take the same time. Both are ours, so the case
says nothing about other projects.
"""

from __future__ import annotations

import functools
import math

import torch

from bench.cases import sampler as bench_sampler
from bench.cases.sampler_targets import Truth, answer
from bench.harness.registry import Case
from edmfast import smc


def check_populations(result: smc.Particles, truth: Truth) -> None:
    """Check the means over populations of Z, and of Z times the masses of the modes, which are unbiased.

    One population is checked as in `bench.cases.sampler`.
    """
    if len(result.log_z) == 1:
        bench_sampler.check(result, truth)
        return
    log_z, masses = answer(result).cpu().split([1, len(truth.value) - 1], 1)
    ratios = (log_z - truth.value[0]).exp()
    numbers = torch.cat([ratios, ratios * masses], 1)
    wanted = torch.cat([torch.ones(1, dtype=torch.float64), truth.value[1:]])
    sd = torch.hypot(numbers.std(0) / math.sqrt(len(numbers)), truth.sd)
    off = (numbers.mean(0) - wanted).abs() / sd
    assert off.max() < 5, (
        f"{off.max():.1f} standard deviations from the truth at place {off.argmax()} of Z and the masses"
    )


def case(populations: int, particles: int, *, probe: bool) -> Case:
    """Return the case of populations of a few particles against one population of as many particles."""
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
        why_slower="Both runs call one network on as many states. Ours takes 999 decisions more.",
    )


CASES = [case(1000, 4, probe=False), case(1000, 4, probe=True)]
