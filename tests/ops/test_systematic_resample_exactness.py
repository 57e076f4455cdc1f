"""Offspring of large populations and extreme weights are exact, and each scheme gives their distribution."""

from __future__ import annotations

import math
import os

import pytest
import torch
from scipy import stats

from edmfast.ops import resample, rng_state, systematic_resample
from edmfast.ops.noise.reference import uniform
from edmfast.ops.systematic_resample.reference import fraction_bits, quantised_exp

huge = pytest.mark.skipif(
    os.environ.get("EDMFAST_TEST_HUGE") != "1", reason="6 GB, half a minute: EDMFAST_TEST_HUGE=1"
)
CHUNK = 2_000_000


def integer_weights(log_weights):
    top, bits = log_weights.max().double(), fraction_bits(len(log_weights))
    parts = [quantised_exp(part.double() - top, bits) for part in log_weights.split(CHUNK)]
    return torch.cat(parts)


def assert_exact(ancestors, log_weights):
    """Check |offspring W - M q| < W in integers that may wrap; a bound in float64 excludes wrapped ones."""
    q = integer_weights(log_weights)
    total, slots = int(q.sum()), len(ancestors)
    counts = torch.bincount(ancestors, minlength=len(q))
    assert len(counts) == len(q)
    assert int(counts.sum()) == slots
    for k, w in zip(counts.split(CHUNK), q.split(CHUNK), strict=True):
        assert ((k - w.double() * (slots / total)).abs() < 1.5).all()
        assert ((k * total - w * slots).abs() < total).all()


def one_heavy(n):
    """Return weights with one particle as heavy as all others together."""
    log_weights = torch.zeros(n)
    log_weights[n // 3] = math.log(n)
    return log_weights


WEIGHTS = {
    "normal": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(1)),
    "wide": lambda n: 20 * torch.randn(n, generator=torch.Generator().manual_seed(2)),
    "one takes half": one_heavy,
    "ramp to 1e-30": lambda n: torch.linspace(0, math.log(1e-30), n),
    "alternating with 1e-30": lambda n: torch.tensor([0.0, math.log(1e-30)]).repeat(n // 2 + 1)[:n],
    "weights below the normal floats": lambda n: torch.linspace(-103, -88, n),
    "almost equal": lambda n: torch.arange(n) % 2 * 1e-7,
}


@pytest.mark.parametrize("n", [999_983, 1 << 20])
@pytest.mark.parametrize("name", WEIGHTS)
def test_exact_at_a_million(name, n):
    log_weights = WEIGHTS[name](n)
    result = systematic_resample(log_weights[None], torch.tensor([0.7]))
    assert result.resampled
    assert_exact(result.ancestors[0], log_weights)


@pytest.mark.parametrize(
    "n", [10_000_019, pytest.param(100_000_007, marks=huge), pytest.param(1 << 27, marks=huge)]
)
def test_exact_when_larger(n):
    log_weights = WEIGHTS["normal"](n)
    ancestors = systematic_resample(log_weights[None], torch.tensor([0.3])).ancestors[0]
    assert_exact(ancestors, log_weights)
    assert (ancestors[1:] >= ancestors[:-1]).all()


@pytest.mark.parametrize("count", [1, 999_979, 2_000_003])
def test_exact_with_another_number_of_offspring(count):
    for log_weights in (torch.zeros(1_000_003), WEIGHTS["normal"](1_000_003)):
        ancestors = resample(log_weights[None], rng_state(1, 2), count=count).ancestors[0]
        assert_exact(ancestors, log_weights)


@pytest.mark.parametrize("n", [999_983, 1 << 20])
def test_ends_of_the_distribution_at_a_million(n):
    equal = systematic_resample(torch.full((1, n), -3.0), torch.tensor([0.7]))
    assert equal.ess.item() == n
    assert torch.equal(equal.ancestors[0], torch.arange(n, dtype=torch.int32))
    for heavy in (0, n - 1):
        log_weights = torch.full((1, n), -50.0)
        log_weights[0, heavy] = 0.0
        alone = systematic_resample(log_weights, torch.tensor([0.999]))
        assert (alone.ancestors == heavy).all()


LOG_WEIGHTS = torch.tensor([0.0, -1.0, -3.0, -0.2, 1.3, -5.0, -0.7], dtype=torch.float64)
POPULATIONS = 100_000


def binomial(n, p):
    return stats.binom.pmf(range(8), n, p)


def two_point(weights):
    """Return the distribution of systematic and SSP: the whole numbers next to the mean."""
    laws = torch.zeros(7, 8, dtype=torch.float64)
    for i, mean in enumerate((7 * weights).tolist()):
        laws[i, int(mean)], laws[i, int(mean) + 1] = 1 - mean % 1, mean % 1
    return laws.numpy()


def stratified(weights):
    """Return the distribution of stratified: a sum of Bernoulli numbers, one for each slot of the particle."""
    ends = 7 * weights.cumsum(0)
    laws = []
    for low, high in zip((ends - 7 * weights).tolist(), ends.tolist(), strict=True):
        law = torch.zeros(8, dtype=torch.float64)
        law[0] = 1
        for slot in range(7):
            share = max(0.0, min(high, slot + 1) - max(low, slot))
            law = (1 - share) * law + share * law.roll(1)
        laws.append(law.numpy())
    return laws


def residual(weights):
    whole, rest = (7 * weights).floor(), (7 * weights) % 1
    draws = int(7 - whole.sum())
    return [
        torch.tensor(binomial(draws, r / draws)).roll(int(k)).numpy()
        for k, r in zip(whole.tolist(), (rest * draws / rest.sum()).tolist(), strict=True)
    ]


LAWS = {
    "systematic": two_point,
    "ssp": two_point,
    "stratified": stratified,
    "multinomial": lambda weights: [binomial(7, w) for w in weights.tolist()],
    "residual": residual,
}


@pytest.mark.parametrize("scheme", LAWS)
def test_law_of_the_offspring(scheme):
    """Chi-square tests how often each particle has 0, 1, 2 ... offspring, over 1e5 populations."""
    log_weights = LOG_WEIGHTS.expand(POPULATIONS, -1)
    ancestors = resample(log_weights, rng_state(3, 1), scheme=scheme).ancestors
    counts = torch.zeros(POPULATIONS, 7, dtype=torch.int64)
    counts.scatter_add_(1, ancestors.long(), torch.ones_like(counts))
    for i, law in enumerate(LAWS[scheme](LOG_WEIGHTS.softmax(0))):
        seen, expected = counts[:, i].bincount(minlength=8).numpy(), POPULATIONS * law
        likely = expected > 5
        assert seen[~likely].sum() <= 5 + 5 * expected[~likely].sum()
        pooled = expected[likely] * (seen[likely].sum() / expected[likely].sum())
        if likely.sum() > 1:
            assert stats.chisquare(seen[likely], pooled).pvalue > 1e-4, i


def test_rounding_over_the_uniforms():
    """Over 1e5 uniforms of the counter, each of 50 particles rounds up as often as its weight says."""
    log_weights = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    points = uniform(rng_state(9, 9), POPULATIONS)
    ancestors = systematic_resample(log_weights.expand(POPULATIONS, -1), points).ancestors
    counts = torch.zeros(POPULATIONS, 50, dtype=torch.int64)
    counts.scatter_add_(1, ancestors.long(), torch.ones_like(ancestors, dtype=torch.int64))
    mean = 50 * log_weights.softmax(0)
    up = (counts > mean.floor()).sum(0).double()
    chance = mean % 1
    square = (up - POPULATIONS * chance).square() / (POPULATIONS * chance * (1 - chance))
    assert stats.chi2.sf(square.max().item(), 1) > 1e-4
