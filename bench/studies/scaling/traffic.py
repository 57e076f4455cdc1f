"""How many states change rank when one population over W ranks is resampled, by a formula and by counting.

Rank r holds the particles and the slots r n to (r + 1) n - 1, n = N/W. Systematic resampling keeps the order, so
slot r n takes the particle where the prefix sum of the weights w_i (of mean 1) reaches r n. For independent w_i of
variance c² = N/ESS - 1 that prefix sum at particle r n is r n + B with B of a Brownian bridge,

    Var B = N c² t (1 - t), t = r/W,   E|B| = sqrt(2 N c² t (1 - t) / pi),

and |B| slots cross that boundary: O(sqrt(N)) in all, of N. A state travels once to a rank, however many of its
slots are there: of the slots a share E[min(1, w)] has a parent of its own. This holds while |B| is well below n.
Weights of a real run are not independent: siblings stand side by side and weigh alike, so that whole families grow
or shrink, and the boundaries shift by more. `of_a_run` counts that in a run.
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
    """Slots whose parent is on another rank, of one resampling with independent weights of that relative
    variance."""
    cuts = (r / ranks for r in range(1, ranks))
    return sum(math.sqrt(2 * particles * variance * t * (1 - t) / math.pi) for t in cuts)


def middle_over_mean(ranks: int) -> float:
    """Slots expected to cross the middle cut, over the mean of a rank."""
    shifts = [math.sqrt(r * (ranks - r)) for r in range(1, ranks)]
    return max(shifts) * ranks / sum(shifts)


def lognormal_variance(sd: float) -> float:
    """c² of weights whose logarithm is normal."""
    return math.expm1(sd**2)


def lognormal_parents(sd: float) -> float:
    """E[min(1, w)] of such weights: the share of particles with offspring."""
    return math.erfc(sd / (2 * math.sqrt(2)))


def expected_states(particles: float, ranks: int, sd: float) -> float:
    """States that travel in one resampling, log-weights independent and normal of that standard deviation."""
    return lognormal_parents(sd) * expected_slots(particles, ranks, lognormal_variance(sd))


def counted_states(ancestors: Tensor, ranks: int) -> Tensor:
    """States that travel, int64 [P]: different pairs of a parent and another rank that has its offspring.
    ancestors [P, N] as one process finds them, sorted; ranks divides N."""
    particles = ancestors.shape[1]
    held = particles // ranks
    rank = torch.arange(particles, device=ancestors.device) // held
    pair = rank * particles + ancestors.long()
    foreign = rank != ancestors.long() // held
    first = torch.ones_like(foreign)
    first[:, 1:] = pair[:, 1:] != pair[:, :-1]
    return (foreign & first).sum(1)


def simulated_ancestors(particles: int, populations: int, sd: float, seed: int = 0) -> Tensor:
    """Of the library's resampling with independent normal log-weights, int32 [P, N]."""
    generator = torch.Generator().manual_seed(seed)
    gains = sd * torch.randn(populations, particles, generator=generator, dtype=torch.float64)
    start = Weights.start(populations, particles)
    return weigh_and_resample(start, gains, [], [], rng_state(seed, 0), ess_threshold=1.0).ancestors


def sums_bytes(populations: int, ranks: int) -> int:
    """Sent by each rank at a level, resampled or not: to all others four numbers for the largest weight and the
    spread, six integers of sums, three int32 of roots, for each population."""
    return (4 * 8 + 6 * 8 + 3 * 4) * populations * (ranks - 1)


def counts_bytes(ranks: int) -> int:
    """Sent by each rank where any population is resampled: how many rows will come, for offspring and for
    states."""
    return 2 * 8 * (ranks - 1)


def state_bytes(elements: int, *, probed: bool = False) -> int:
    """Of a state that travels, float32: the offspring told of it (3 int64), the request (int64), then x, its
    score and energy, and the float64 of a probe."""
    return 3 * 8 + 8 + 2 * 4 * elements + 4 + 8 * probed


class OfRun(NamedTuple):
    """One run: of the resamplings, the number, the mean of states that travel, of what independent weights of
    their effective sizes would move, and of N/ESS - 1."""

    resamplings: int
    moved: float
    independent: float
    variance: float


def run_with_genealogy(particles: int, populations: int = 8, seed: int = 0) -> smc.Particles:
    """Eight exact modes in two dimensions."""
    return smc.sample(
        sampler_targets.mixture(2),
        (2,),
        sampler_targets.levels(2),
        particles=particles,
        populations=populations,
        proposal=smc.NoiseMatched(0.2),
        seed=seed,
        genealogy=True,
        dtype=torch.float32,
    )


def of_a_run(found: smc.Particles, ranks: int) -> OfRun:
    """What resampling in a run would move between so many ranks. The share of parents is that of log-normal
    weights with the effective size found. Raises ValueError where nothing was resampled."""
    assert found.ancestors is not None
    chosen = found.resampled
    if not chosen.any():
        raise ValueError("no population of this run was resampled: there is no traffic to count")
    particles = found.ancestors.shape[2]
    moved = counted_states(found.ancestors[chosen], ranks).double()
    variance = particles / found.ess[chosen] - 1
    expected = [
        expected_states(particles, ranks, math.sqrt(math.log1p(c2))) for c2 in variance.tolist()
    ]
    mean = sum(expected) / len(expected)
    return OfRun(len(moved), moved.mean().item(), mean, variance.mean().item())


def measure_traffic(sizes: tuple[int, ...], populations: int) -> dict[str, Any]:
    """States that a resampling moves between RUN_RANKS shards, in real runs of growing size."""
    found = [of_a_run(run_with_genealogy(n, populations), RUN_RANKS) for n in sizes]
    # against the formula at the effective sizes found, as these differ from run to run
    line = fit(sizes, [max(one.moved, 1e-9) / one.independent for one in found])
    return {
        "ranks": RUN_RANKS,
        "populations": populations,
        "particles": [*sizes],
        "resamplings": [one.resamplings for one in found],
        "moved": [one.moved for one in found],
        "independent": [one.independent for one in found],
        "weight_variance": [one.variance for one in found],
        "excess_exponent": line.exponent,
        "excess_exponent_error": line.error,
    }


def excess(counted: dict[str, Any], particles: float) -> tuple[float, float]:
    """Times the formula at so many particles, as a run goes on to grow and at two errors of its exponent more."""
    found = counted["moved"][-1] / counted["independent"][-1]
    growth, exponent = particles / counted["particles"][-1], counted["excess_exponent"]
    error = counted["excess_exponent_error"] or 0.0
    return found * growth**exponent, found * growth ** (exponent + 2 * error)
