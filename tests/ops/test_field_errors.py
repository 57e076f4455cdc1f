"""Wrong answers that public sampling code gives silently do not occur here.

Each is reproduced in a few lines of plain torch, which must fail the assertion that our operator passes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edmfast.ops import resample, rng_state, standard_normal, systematic_resample
from edmfast.ops.noise.reference import uniform as counter_uniform

HALF = torch.tensor([0.5])


def search(cumulative, n, u=0.5):
    """Resample by the usual inverse of the cumulative weights, in their precision and without a clamp."""
    slots = (torch.arange(n, dtype=cumulative.dtype) + u) / n
    return torch.searchsorted(cumulative, slots, right=True)


def holds(check, ours, theirs):
    check(ours)
    with pytest.raises(AssertionError):
        check(theirs)


def offspring_off(ancestors, log_weights):
    """Return the largest |offspring - N w|, with w in float64; every index must exist."""
    n = len(log_weights)
    assert 0 <= ancestors.min() <= ancestors.max() < n
    counts = torch.bincount(ancestors, minlength=n)
    return (counts - n * log_weights.double().softmax(0)).abs().max()


def test_float32_prefix_sums_misplace_offspring(generator):
    log_weights = torch.randn(1_000_000, generator=generator)
    theirs = search(log_weights.softmax(0).cumsum(0), len(log_weights), 0.3)

    def check(ancestors):
        assert offspring_off(ancestors, log_weights) < 1 + 1e-6

    holds(check, systematic_resample(log_weights[None], torch.tensor([0.3])).ancestors[0], theirs)


def test_no_index_beyond_the_particles(generator):
    """The float32 sum of 1e7 weights ends below the last slot, which then finds index N."""
    log_weights = torch.randn(10_000_000, generator=generator)
    sums = np.cumsum(log_weights.softmax(0).numpy(), dtype=np.float32)
    theirs = search(torch.from_numpy(sums), len(log_weights), 0.3)

    def check(ancestors):
        assert 0 <= ancestors.min() <= ancestors.max() < len(log_weights)

    holds(check, systematic_resample(log_weights[None], torch.tensor([0.3])).ancestors[0], theirs)


def test_clipped_weights_starve_late_particles():
    """Weights below 1e-6 that are raised to 1e-6, and not normalised again, sum to 1 by themselves."""
    n = 1_000_000
    log_weights = torch.linspace(0, 500, n, dtype=torch.float64)
    theirs = search(log_weights.softmax(0).clamp(min=1e-6).cumsum(0), n).clamp(max=n - 1)
    assert abs(theirs.double().mean() / n - 0.5) < 0.01

    def check(ancestors):
        assert abs(ancestors.double().mean() / n - 0.998) < 1e-5

    holds(check, systematic_resample(log_weights[None], HALF).ancestors[0], theirs)


def test_many_tiny_weights_are_not_lost():
    """Half of the mass lies on a million particles of 5e-7 each, and a cut at 1e-6 removes it."""
    n = 1_000_001
    weights = torch.full((n,), 5e-7, dtype=torch.float64)
    weights[0] = 0.5
    cut = torch.where(weights < 1e-6, 0.0, weights)

    def check(ancestors):
        assert abs(ancestors.eq(0).double().mean() - 0.5) < 2e-6

    ours = systematic_resample(weights.log()[None], HALF).ancestors[0]
    holds(check, ours, search((cut / cut.sum()).cumsum(0), n))


@pytest.mark.parametrize(
    ("level", "gap", "limit"),
    [(1000.0, 6.0, 1e10), (88.5, 0.5, math.inf), (-103.0, 0.5, math.inf)],
    ids=["clamped rewards", "overflow", "denormals"],
)
def test_only_ratios_of_weights_count(level, gap, limit):
    """Two halves of a population have odds exp(gap), whatever their common offset.

    Plain code gives even odds where a clamp cuts both, NaN where exp overflows, and two to one where exp leaves
    one and two steps of the smallest number.
    """
    n = 10_000
    log_weights = torch.full((n,), level)
    log_weights[n // 2 :] = level + gap
    weights = log_weights.exp().clamp(max=limit)
    theirs = search((weights / weights.sum()).double().cumsum(0), n).clamp(max=n - 1)

    def check(ancestors):
        share = (ancestors >= n // 2).double().mean()
        assert abs(share - 1 / (1 + math.exp(-gap))) <= 2 / n

    holds(check, systematic_resample(log_weights[None], HALF).ancestors[0], theirs)


def test_one_mean_ess_must_not_decide_for_all():
    """A population that has collapsed to a point is resampled, and the many even ones beside it are not."""
    log_weights = torch.zeros(16, 100)
    log_weights[3, 1:] = -30.0
    result = systematic_resample(log_weights, torch.full((16,), 0.5), ess_threshold=0.5)

    def check(decisions):
        assert decisions.nonzero().tolist() == [[3]]

    holds(check, result.resampled, (result.ess.mean() < 50).expand(16))


def test_weights_of_a_skipped_step_still_count(generator):
    """Two increments of x/2 tilt N(0, 1) to mean 1 only if both count."""
    n = 200_000
    x = torch.randn(1, n, dtype=torch.float64, generator=generator)
    first = systematic_resample(0.5 * x, HALF, ess_threshold=0.5)
    assert not first.resampled
    assert torch.equal(first.ancestors[0], torch.arange(n, dtype=torch.int32))
    kept = torch.where(first.resampled[:, None], 0.0, 0.5 * x)

    def check(log_weights):
        ancestors = systematic_resample(log_weights, HALF).ancestors
        assert abs(x.gather(1, ancestors.long()).mean() - 1) < 5 * math.sqrt(math.e / n)

    holds(check, kept + 0.5 * x, 0.5 * x)


@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_no_silent_answer_for_collapsed_weights(bad):
    """A softmax of weights that are all zero is NaN, and a search in NaN gives every slot the same index."""
    log_weights = torch.full((8,), bad)
    result = systematic_resample(log_weights[None], HALF)
    theirs = search(log_weights.softmax(0).cumsum(0), 8).clamp(max=7)

    def check(ancestors):
        assert ancestors.tolist() == list(range(8))

    holds(check, result.ancestors[0], theirs)
    assert result.degenerate.item() != 0


def test_one_nan_does_not_spoil_the_others(generator):
    log_weights = torch.randn(1000, generator=generator)
    log_weights[10] = math.nan
    theirs = search(log_weights.softmax(0).cumsum(0), 1000).clamp(max=999)
    result = systematic_resample(log_weights[None], HALF)

    def check(ancestors):
        assert offspring_off(ancestors, log_weights.nan_to_num(-math.inf)) < 1 + 1e-6

    holds(check, result.ancestors[0], theirs)
    assert result.degenerate.item() == 1


def test_ranks_agree_on_the_uniform():
    """Two ranks fill the halves of one population with the same uniform.

    With a uniform for each rank, a particle of 0.03 expected offspring in the middle would take the last slot of
    one half and the first slot of the other.
    """
    n = 1000
    log_weights = torch.full((n,), -60.0, dtype=torch.float64)
    log_weights[499:502] = torch.tensor([499.985, 0.03, 499.985], dtype=torch.float64).log()

    def halves(points):
        lower, upper = systematic_resample(log_weights.expand(2, n), torch.tensor(points)).ancestors
        return torch.cat([lower[: n // 2], upper[n // 2 :]])

    points = []
    for rank in range(2):
        torch.randn(5 + rank)  # other random numbers of the process do not matter
        points.append(float(counter_uniform(rng_state(7, 3), 1)))

    def check(ancestors):
        assert offspring_off(ancestors, log_weights) < 1

    holds(check, halves(points), halves([0.99, 0.01]))


@pytest.mark.parametrize("scheme", ["stratified", "multinomial", "residual", "killing", "ssp"])
def test_uniforms_do_not_depend_on_what_was_drawn_before(generator, scheme):
    log_weights = torch.randn(3, 50, generator=generator)

    def ours(first, last):
        part = log_weights[first:last]
        return resample(part, rng_state(1, 2), scheme=scheme, first_population=first).ancestors

    def theirs(first, last):
        torch.manual_seed(1)
        return torch.multinomial(log_weights[first:last].softmax(1), 50, replacement=True)

    def check(draw):
        assert torch.equal(draw(0, 3)[1:], draw(1, 3))

    holds(check, ours, theirs)


def test_noise_does_not_depend_on_the_batch():
    def ours(first, last):
        like = torch.empty(1, last - first, 6)
        return standard_normal(like, seed=1, step=2, first_particle=first)

    def theirs(first, last):
        return torch.randn(1, last - first, 6, generator=torch.Generator().manual_seed(1))

    def check(draw):
        assert torch.equal(draw(0, 8)[:, 3:], draw(3, 8))

    holds(check, ours, theirs)


def test_a_restart_repeats_no_noise():
    """A generator that is seeded again after a resume starts over, so that step 5 gets the numbers of step 0."""
    like = torch.empty(1, 4, 3)

    def ours(step, resumed):
        return standard_normal(like, seed=1, step=step)

    def theirs(step, resumed):
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(like.shape, generator=generator) for _ in range(step + 1 - resumed)]
        return drawn[-1]

    def check(draw):
        assert torch.equal(draw(5, resumed=0), draw(5, resumed=5))
        assert not torch.equal(draw(0, resumed=0), draw(5, resumed=5))

    holds(check, ours, theirs)
