"""Wrong answers that resampling code in the wild gives silently, each held off by a test."""

from __future__ import annotations

import math

import torch

from edmfast.ops import systematic_resample


def test_float32_prefix_sums_misplace_offspring_at_ten_million(generator):
    """They give indices of N and beyond, and offspring off by many; integers do neither."""
    n = 10_000_000
    log_weights = torch.randn(1, n, generator=generator)
    ancestors = systematic_resample(log_weights, torch.tensor([0.3])).ancestors[0]
    assert ancestors.min() >= 0
    assert ancestors.max() < n
    assert (ancestors[1:] >= ancestors[:-1]).all()
    counts = torch.bincount(ancestors, minlength=n)
    expected = log_weights[0].double().softmax(0) * n
    assert (counts - expected).abs().max() < 1 + 1e-6


def test_clipped_weights_starve_late_particles():
    """Weights of 1e6 particles, most below 1e-6: their sum is what counts, not each one's size."""
    n = 1_000_000
    log_weights = torch.linspace(0, 500, n, dtype=torch.float64)[None]
    result = systematic_resample(log_weights, torch.tensor([0.5]))
    mean_rank = result.ancestors.double().mean() / n
    assert abs(mean_rank - 0.998) < 1e-5


def test_many_tiny_weights_are_not_lost():
    """Half of the mass lies on a million particles of 5e-7 each."""
    n = 1_000_001
    log_weights = torch.full((1, n), math.log(5e-7), dtype=torch.float64)
    log_weights[0, 0] = math.log(0.5)
    ancestors = systematic_resample(log_weights, torch.tensor([0.5])).ancestors
    assert abs((ancestors == 0).double().mean() - 0.5) < 2e-6


def test_huge_rewards_are_not_clamped():
    """exp(1000) and exp(1006) both pass any clamp: their odds are still exp(6)."""
    n = 10_000
    log_weights = torch.full((1, n), 1000.0, dtype=torch.float64)
    log_weights[0, n // 2 :] = 1006.0
    ancestors = systematic_resample(log_weights, torch.tensor([0.5])).ancestors
    share = (ancestors >= n // 2).double().mean()
    assert abs(share - 1 / (1 + math.exp(-6))) <= 2 / n


def test_one_mean_ess_must_not_decide_for_all(generator):
    """One collapsed-to-a-point population among many even ones is resampled, they are not."""
    log_weights = torch.zeros(16, 100)
    log_weights[3, 1:] = -30.0
    result = systematic_resample(log_weights, torch.full((16,), 0.5), ess_threshold=0.5)
    assert result.ess.mean() > 50
    assert result.resampled.nonzero().tolist() == [[3]]


def test_weights_of_a_skipped_step_still_count(generator):
    """Two increments of exp(x/2): only their sum tilts N(0, 1) to mean 1."""
    n = 200_000
    x = torch.randn(1, n, dtype=torch.float64, generator=generator)
    first = systematic_resample(0.5 * x, torch.tensor([0.5]), ess_threshold=0.5)
    assert not first.resampled
    assert torch.equal(first.ancestors[0], torch.arange(n, dtype=torch.int32))
    kept = torch.where(first.resampled[:, None], 0.0, 0.5 * x)
    second = systematic_resample(kept + 0.5 * x, torch.tensor([0.5]))
    mean = x.gather(1, second.ancestors.long()).mean()
    assert abs(mean - 1) < 5 * math.sqrt(math.e / n)


def test_no_silent_answer_for_collapsed_weights():
    for bad in (-math.inf, math.nan):
        result = systematic_resample(torch.full((1, 8), bad), torch.tensor([0.5]))
        assert result.degenerate.item() != 0
        assert result.ancestors.tolist() == [list(range(8))]
