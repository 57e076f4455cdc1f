"""Systematic resampling has the bits of the reference and exact offspring counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edmfast.ops import Resampled, systematic_resample
from edmfast.ops.systematic_resample import reference


def assert_same(ours, truth):
    """Check that two results have the same bits, the log-mean up to a unit in the last place."""
    for name in ("ancestors", "ess", "resampled", "degenerate"):
        a, b = getattr(ours, name), getattr(truth, name)
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype, name
    torch.testing.assert_close(ours.log_mean, truth.log_mean, rtol=4e-16, atol=4e-16)


def plain(log_weights, uniform, ess_threshold=1.0):
    outputs = reference.systematic_resample(log_weights, uniform.double(), ess_threshold)
    return Resampled(*outputs)


def offspring(ancestors, particles):
    counts = torch.zeros(ancestors.shape[0], particles, dtype=torch.int64)
    return counts.scatter_add_(1, ancestors.long(), torch.ones_like(counts))


SHAPES = [(1, 1), (1, 2), (3, 7), (5, 64), (2, 1023), (1, 1025), (257, 3), (1, 16385), (2, 40009)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_as_reference(compiled, generator, shape, scale, dtype):
    log_weights = scale * torch.randn(shape, dtype=dtype, generator=generator) + 1e3 * scale
    uniform = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    for threshold in (0.0, 0.5, 1.0):
        ours = systematic_resample(log_weights, uniform, ess_threshold=threshold)
        assert_same(ours, plain(log_weights, uniform, threshold))


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, 1.0 - 2**-53, 1.0, 2.0, 2**-60, math.nan])
def test_same_bits_at_the_ends_of_the_uniform(compiled, generator, value):
    log_weights = torch.randn(3, 1000, generator=generator)
    uniform = torch.full((3,), value, dtype=torch.float64)
    assert_same(systematic_resample(log_weights, uniform), plain(log_weights, uniform))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-60, 0, width=32), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
)
def test_offspring_differ_by_less_than_one(values, uniform):
    """In Python's integers, |offspring W - N q| < W for every particle."""
    log_weights = torch.tensor([values], dtype=torch.float64)
    n = len(values)
    result = systematic_resample(log_weights, torch.tensor([uniform], dtype=torch.float64))
    if not result.resampled:
        assert result.ancestors.tolist() == [list(range(n))]
        return
    q = reference.quantised_exp(
        log_weights[0] - log_weights.max(), reference.fraction_bits(n)
    ).tolist()
    counts = offspring(result.ancestors, n)[0].tolist()
    assert sum(counts) == n
    assert all(abs(k * sum(q) - n * w) < sum(q) for k, w in zip(counts, q, strict=True))


def test_integer_weights_are_the_exponential():
    x = torch.linspace(-43.6, 0, 5001, dtype=torch.float64)
    bits = 52
    q = reference.quantised_exp(x, bits).tolist()
    for value, integer in zip(x.tolist(), q, strict=True):
        exact = math.exp(value) * 2.0**bits
        assert abs(integer - exact) <= 1 + 2e-15 * exact


def test_sum_of_squares_is_exact(generator):
    q = torch.randint(0, 2**52, (3, 1000), generator=generator)
    ours = reference.sum_of_squares(reference.square_parts(q)).tolist()
    for row, value in zip(q.tolist(), ours, strict=True):
        assert value == pytest.approx(sum(k * k for k in row), rel=3e-16)


@pytest.mark.parametrize("particles", [1, 2, 3, 1000, 16384, 50021])
def test_equal_weights_keep_everyone(particles):
    for level in (-1e30, -1e4, 0.0, 88.0, 1e30):
        log_weights = torch.full((1, particles), level)
        result = systematic_resample(log_weights, torch.tensor([0.7]))
        assert torch.equal(result.ancestors[0], torch.arange(particles, dtype=torch.int32))
        assert result.ess.item() == particles
        assert not result.resampled
        assert result.log_mean.item() == log_weights.double()[0, 0].item()


@pytest.mark.parametrize("particles", [2, 17, 1000, 40000])
def test_one_particle_holds_everything(particles):
    for heavy in (0, particles // 2, particles - 1):
        log_weights = torch.full((1, particles), -1e4)
        log_weights[0, heavy] = 5.0
        result = systematic_resample(log_weights, torch.tensor([0.999]))
        assert (result.ancestors == heavy).all()
        assert result.ess.item() == 1.0
        assert result.log_mean.item() == pytest.approx(5.0 - math.log(particles), rel=1e-15)


def test_ess_and_log_mean_against_the_definitions(generator):
    log_weights = 3 * torch.randn(4, 999, dtype=torch.float64, generator=generator) - 700
    result = systematic_resample(log_weights, torch.full((4,), 0.5), ess_threshold=0.0)
    weights = log_weights.softmax(1)
    torch.testing.assert_close(result.ess, 1 / weights.square().sum(1), rtol=1e-12, atol=0)
    expected = log_weights.logsumexp(1) - math.log(999)
    torch.testing.assert_close(result.log_mean, expected, rtol=1e-14, atol=0)
    assert not result.resampled.any()


def test_mean_offspring_over_a_grid_of_uniforms(generator):
    """The uniforms that give a particle one more slot form an arc, which M grid points meet to within one."""
    grid, n = 1024, 50
    log_weights = torch.randn(n, dtype=torch.float64, generator=generator)
    uniform = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    result = systematic_resample(log_weights.expand(grid, n), uniform)
    mean = offspring(result.ancestors, n).double().mean(0)
    assert (mean - n * log_weights.softmax(0)).abs().max() <= 1 / grid + 1e-9


def test_a_random_slot_follows_the_weights(generator):
    """Test by chi-square over independent populations that the ancestor of a random slot has distribution w."""
    from scipy.stats import chisquare

    populations, n = 40_000, 12
    log_weights = torch.randn(n, dtype=torch.float64, generator=generator)
    uniform = torch.rand(populations, dtype=torch.float64, generator=generator)
    slot = torch.randint(n, (populations, 1), generator=generator)
    result = systematic_resample(log_weights.expand(populations, n), uniform)
    seen = torch.bincount(result.ancestors.gather(1, slot)[:, 0], minlength=n)
    expected = log_weights.softmax(0) * populations
    assert chisquare(seen.numpy(), expected.numpy()).pvalue > 1e-3


def test_adaptive_decision_is_taken_per_population():
    uneven = torch.tensor([0.0, 0.0, 0.0, -50.0])  # the effective sample size is 3 of 4
    log_weights = torch.stack([uneven, torch.zeros(4), uneven])
    for threshold, wanted in [(0.7, [False] * 3), (0.75, [False] * 3), (0.76, [True, False, True])]:
        result = systematic_resample(log_weights, torch.full((3,), 0.5), ess_threshold=threshold)
        assert result.resampled.tolist() == wanted
    assert result.ancestors.tolist() == [[0, 1, 1, 2], [0, 1, 2, 3], [0, 1, 1, 2]]
