"""Count the states that change rank when one population over W ranks is resampled, by a formula and in runs.

Rank r holds the particles and the slots r n to (r + 1) n - 1, n = N/W. Systematic resampling keeps the order,
so slot r n takes the particle where the prefix sum of the weights w_i (of mean 1) reaches r n. For
independent w_i of variance c² = N/ESS - 1 that prefix sum at particle r n is r n + B, with B of a Brownian
bridge,

    Var B = N c² t (1 - t), t = r/W,   E|B| = sqrt(2 N c² t (1 - t) / pi),

and |B| slots cross that boundary: O(sqrt(N)) of N in all. A state travels once to a rank, however many of its
slots are there; a share E[min(1, w)] of the slots has a parent of its own. This holds while |B| is well below
n. The weights of a real run are not independent: siblings stand side by side and have similar weights, so
that whole families grow or shrink, and the boundaries shift by more. `of_a_run` counts this in a run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases import sampler_targets
from bench.studies.scaling.axes import fit
from edmfast import smc
from edmfast.ops import Weights, rng_state, weigh_and_resample

RUN_RANKS = 8


def expected_slots(particles: float, ranks: int, variance: float) -> float:
    """Return the expected slots whose parent is on another rank, for independent weights of this relative
    variance."""
    cuts = (r / ranks for r in range(1, ranks))
    return sum(math.sqrt(2 * particles * variance * t * (1 - t) / math.pi) for t in cuts)


def middle_over_mean(ranks: int) -> float:
    """Return the expected slots that cross the middle cut, over the mean of a rank."""
    shifts = [math.sqrt(r * (ranks - r)) for r in range(1, ranks)]
    return max(shifts) * ranks / sum(shifts)


def lognormal_variance(sd: float) -> float:
    """Return c² of log-normal weights."""
    return math.expm1(sd**2)


def lognormal_parents(sd: float) -> float:
    """Return E[min(1, w)] of log-normal weights: the share of particles with offspring."""
    return math.erfc(sd / (2 * math.sqrt(2)))


def expected_states(particles: float, ranks: int, sd: float) -> float:
    """Return the expected states that travel in one resampling, for independent normal log-weights of this
    deviation."""
    return lognormal_parents(sd) * expected_slots(particles, ranks, lognormal_variance(sd))


def counted_states(ancestors: Tensor, ranks: int) -> Tensor:
    """Count the states that travel, int64 [P]: distinct pairs of a parent and another rank with its offspring.

    ancestors [P, N]: sorted, as one process finds them. ranks divides N.
    """
    particles = ancestors.shape[1]
    held = particles // ranks
    rank = torch.arange(particles, device=ancestors.device) // held
    pair = rank * particles + ancestors.long()
    foreign = rank != ancestors.long() // held
    first = torch.ones_like(foreign)
    first[:, 1:] = pair[:, 1:] != pair[:, :-1]
    return (foreign & first).sum(1)


def simulated_ancestors(particles: int, populations: int, sd: float, seed: int = 0) -> Tensor:
    """Return ancestors int32 [P, N] of the library's resampling with independent normal log-weights."""
    generator = torch.Generator().manual_seed(seed)
    gains = sd * torch.randn(populations, particles, generator=generator, dtype=torch.float64)
    start = Weights.start(populations, particles)
    return weigh_and_resample(start, gains, [], [], rng_state(seed, 0), ess_threshold=1.0).ancestors


def sums_bytes(populations: int, ranks: int) -> int:
    """Return the bytes that each rank sends at a level, resampled or not.

    For each population these are, to all others: four numbers for the largest weight and the spread, and six
    integers of sums.
    """
    return (4 * 8 + 6 * 8) * populations * (ranks - 1)


def counts_bytes(populations: int, ranks: int) -> int:
    """Return the bytes that each rank sends where any population is resampled, besides offspring and states.

    These are the counts of rows of both, and for each population three int32 of roots.
    """
    return (2 * 8 + 3 * 4 * populations) * (ranks - 1)


def state_bytes(elements: int, *, probed: bool = False) -> int:
    """Return the bytes of a travelling state in float32.

    These are its offspring (3 int64), the request (int64), then x, its score and energy, and the float64 of a
    probe.
    """
    return 3 * 8 + 8 + 2 * 4 * elements + 4 + 8 * probed


class OfRun(NamedTuple):
    """One run, over its resamplings.

    The fields are their number, the mean number of states that travel, the number that independent weights of
    their effective sizes would move, and N/ESS - 1.
    """

    resamplings: int
    moved: float
    independent: float
    variance: float


def run_with_genealogy(particles: int, populations: int = 8, seed: int = 0) -> smc.Particles:
    """Run on eight exact modes in two dimensions."""
    return smc.sample(
        sampler_targets.mixture(2),
        (2,),
        sampler_targets.levels(2),
        particles=particles,
        populations=populations,
        proposal=smc.NoiseMatched(0.2),
        seed=seed,
        options=smc.RunOptions(dtype=torch.float32, genealogy=True),
    )


def of_a_run(results: smc.Particles, ranks: int) -> OfRun:
    """Count the states that the resamplings of a run would move between this many ranks.

    The share of parents is that of log-normal weights with the observed effective size. Raises ValueError
    where nothing was resampled.
    """
    assert results.ancestors is not None
    chosen = results.resampled
    if not chosen.any():
        raise ValueError("no population of this run was resampled: there is no traffic to count")
    particles = results.ancestors.shape[2]
    moved = counted_states(results.ancestors[chosen], ranks).double()
    variance = particles / results.ess[chosen] - 1
    expected = [
        expected_states(particles, ranks, math.sqrt(math.log1p(c2))) for c2 in variance.tolist()
    ]
    mean = sum(expected) / len(expected)
    return OfRun(len(moved), moved.mean().item(), mean, variance.mean().item())


def measure_traffic(sizes: tuple[int, ...], populations: int) -> dict[str, Any]:
    """Measure the states that a resampling moves between RUN_RANKS shards, in real runs of growing size."""
    results = [of_a_run(run_with_genealogy(n, populations), RUN_RANKS) for n in sizes]
    # compared with the formula at the observed effective sizes, which differ from run to run
    line = fit(sizes, [max(result.moved, 1e-9) / result.independent for result in results])
    return {
        "ranks": RUN_RANKS,
        "populations": populations,
        "particles": [*sizes],
        "resamplings": [result.resamplings for result in results],
        "moved": [result.moved for result in results],
        "independent": [result.independent for result in results],
        "weight_variance": [result.variance for result in results],
        "excess_exponent": line.exponent,
        "excess_exponent_error": line.error,
    }


def excess(counted: dict[str, Any], particles: float) -> tuple[float, float]:
    """Return the factor over the formula at this many particles: as runs grow, and at two errors more of its
    exponent."""
    results = counted["moved"][-1] / counted["independent"][-1]
    growth, exponent = particles / counted["particles"][-1], counted["excess_exponent"]
    error = counted["excess_exponent_error"] or 0.0
    return results * growth**exponent, results * growth ** (exponent + 2 * error)
