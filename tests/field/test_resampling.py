"""Test that publicly reported problems of resampling do not occur; each test names the project and the report."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.ops import resample, rng_state, systematic_resample
from edmfast.ops.resample.operator import SCHEMES

HALF = torch.tensor([0.5])


def offspring(log_weights, scheme, seeds):
    """Return the offspring counts [seeds, N] of one population."""
    draws = [
        resample(log_weights[None], rng_state(seed, 0), scheme=scheme) for seed in range(seeds)
    ]
    n = len(log_weights)
    return torch.stack([torch.bincount(d.ancestors[0].long(), minlength=n) for d in draws])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_first_particle_of_weight_zero_dies(scheme):
    """mcl_3dl 232: the first particle survived every resampling whatever its weight. Here it has no offspring."""
    log_weights = torch.tensor([-math.inf, 0.0, 0.3, -0.2])
    assert not offspring(log_weights, scheme, 50)[:, 0].any()
    for uniform in (0.0, 0.5, 1.0 - 2**-24):
        ancestors = systematic_resample(log_weights[None], torch.tensor([uniform])).ancestors
        assert not (ancestors == 0).any()


@pytest.mark.parametrize("zeros", [[0], [3], [0, 1, 3], [1, 2, 3]])
def test_ssp_takes_weights_of_zero(zeros):
    """particles 29: SSP resampling failed when weights are zero. Here those particles get no offspring; the others
    get M w on average.
    """
    weights = torch.tensor([0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    weights[zeros] = 0.0
    counts = offspring(weights.log(), "ssp", 200)
    expected = 4 * weights / weights.sum()
    assert not counts[:, zeros].any()
    assert (counts - expected).abs().max() < 1
    assert (counts.double().mean(0) - expected).abs().max() < 0.12


def test_residual_resampling_is_unbiased():
    """filterpy 290: residual resampling drew its remainder from the wrong weights. Here mean offspring are M w."""
    weights = torch.tensor([0.05, 0.15, 0.35, 0.45], dtype=torch.float64)
    counts = offspring(weights.log(), "residual", 4000).double()
    error = counts.std(0) / math.sqrt(len(counts))
    assert ((counts.mean(0) - 4 * weights).abs() < 4 * error + 1e-9).all()
    assert (counts >= (4 * weights).floor()).all()


@pytest.mark.parametrize("level", [-1e4, -800.0, 800.0, 1e4])
def test_tiny_weights_do_not_become_uniform(level):
    """stan 3241: weights that all underflowed were treated as equal. Here only their ratios count."""
    log_weights = torch.zeros(1000, dtype=torch.float64) + level
    log_weights[500:] += math.log(3.0)
    for scheme in SCHEMES:
        drawn = resample(log_weights[None], rng_state(1, 0), scheme=scheme)
        share = (drawn.ancestors >= 500).double().mean()
        assert abs(float(share) - 0.75) < 0.05, scheme
        assert float(drawn.log_mean) == pytest.approx(level + math.log(2.0), abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_bad_weights_are_reported_and_do_not_spoil_the_others(bad):
    """Gen.jl 117: a weight of NaN or minus infinity gave nonsense or an obscure error. Here it counts as zero
    and NaN is flagged; a population with only such weights stays as it is and reports it.
    """
    log_weights = torch.tensor([[0.0, bad, 0.0, 0.0], [bad] * 4])
    drawn = systematic_resample(log_weights, torch.tensor([0.5, 0.5]))
    assert 1 not in drawn.ancestors[0]
    assert drawn.ancestors[1].tolist() == [0, 1, 2, 3]
    assert bool(drawn.degenerate[0]) == math.isnan(bad)
    assert drawn.degenerate[1] != 0
    assert float(drawn.ess[0]) == pytest.approx(3.0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_callers_weights_are_not_changed(scheme):
    """pyro 2486: sampling changed the tensors it was given. Here inputs keep every bit."""
    log_weights = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    before, rng = log_weights.clone(), rng_state(3, 4)
    resample(log_weights, rng, scheme=scheme)
    systematic_resample(log_weights, torch.full((3,), 0.5))
    assert torch.equal(log_weights, before)
    assert torch.equal(rng, rng_state(3, 4))


def test_weights_belong_to_the_particles_beside_them():
    """pfilter 8: after resampling, the weights shown were those of other particles. Here the weights of the
    callback are those of the result, and with them the second moment is that of the law.
    """
    target = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], [0.5, 0.5])
    seen = []
    result = smc.sample(
        target,
        (2,),
        [4.0, 2.0, 1.0, 0.5, 0.25],
        particles=4000,
        proposal="euler",
        ess_threshold=1.0,
        callback=lambda info: seen.append((info["x"].clone(), info["log_weights"].clone())),
    )
    assert result.resampled[:-1].any()
    x, log_weights = seen[-1]
    assert torch.equal(x, result.x)
    assert torch.allclose(log_weights.softmax(1), result.weights)
    # The last law has variance 4 between its modes, 0.25 within each, and 0.0625 from the noise.
    second = (result.weights * result.x[..., 0].double() ** 2).sum()
    assert float(second) == pytest.approx(4.3125, rel=0.05)
