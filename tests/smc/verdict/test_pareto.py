"""The tail index of importance weights is right on tails whose index is known."""

import math

import pytest
import torch

from edmfast.smc.verdict.pareto import generalised_pareto_shape, pareto_k, reliable_below, tail_size

REPEATS = 300


def uniform(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [-0.5, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_the_index_of_exact_tails(shape):
    count = 400
    exceedances = ((1 - uniform(REPEATS, count)) ** -shape - 1) / shape
    k = generalised_pareto_shape(exceedances.sort(1).values)
    # the prior counts like ten exceedances of shape 1/2
    expected = (count * shape + 10 * 0.5) / (count + 10)
    # the variance of the maximum likelihood estimate is (1 + k)²/M for k > -1/2
    assert k.mean().item() == pytest.approx(expected, abs=0.02 + 0.02 * abs(shape))
    assert k.std().item() < 1.3 * (1 + max(shape, -0.3)) / math.sqrt(count)


def test_the_scale_does_not_matter():
    exceedances = (uniform(5, 200) ** -0.6 - 1).sort(1).values
    k = generalised_pareto_shape(exceedances)
    torch.testing.assert_close(generalised_pareto_shape(exceedances * 1e-6), k)


def test_weights_of_a_pareto_law_have_its_index():
    """P(w > t) = t^(-1/k) has the index k whatever the threshold."""
    log_weights = -0.8 * uniform(50, 4000).log()
    k = pareto_k(log_weights)
    assert k.mean().item() == pytest.approx(0.8, abs=0.05)
    torch.testing.assert_close(pareto_k(log_weights + 700), k)


@pytest.mark.parametrize(
    ("sd", "low", "high"), [(0.3, -0.2, 0.2), (1.0, 0.1, 0.45), (3.0, 0.8, 1.3)]
)
def test_log_normal_weights(sd, low, high):
    """All moments exist, but few weights of a wide law do not show it: the index grows with the sd."""
    generator = torch.Generator().manual_seed(1)
    log_weights = sd * torch.randn(50, 2000, generator=generator, dtype=torch.float64)
    assert low < pareto_k(log_weights).mean().item() < high


def test_bounded_weights_have_a_negative_index():
    assert pareto_k(uniform(20, 1000).log()).max().item() < 0.0


@pytest.mark.parametrize(
    "log_weights",
    [
        torch.zeros(2, 100),
        torch.full((2, 100), -torch.inf),
        torch.full((2, 100), torch.nan),
        torch.zeros(2, 4),
        torch.zeros(2, 1),
        torch.zeros(2, 0),
    ],
)
def test_weights_without_a_tail_have_no_index(log_weights):
    assert pareto_k(log_weights).isnan().all()


def test_sizes_and_bound():
    assert [tail_size(n) for n in (10, 100, 225, 10_000)] == [2, 20, 45, 300]
    assert reliable_below(1000) == pytest.approx(2 / 3)
    assert reliable_below(10**6) == 0.7
    assert reliable_below(5) == 0.0
