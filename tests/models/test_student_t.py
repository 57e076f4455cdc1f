"""The noise of PFGM++ has the radius law of the paper, and depends on seed and index alone."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.models.student_t import student_t, student_t_scale

N = 8


def seeds(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def beta_distribution(b, dof):
    """Return P(B <= b) for B ~ Beta(N/2, D/2), a finite sum as N/2 is an integer."""
    a, rest = dof / 2, 1 - b
    terms = [
        b**j * math.exp(math.lgamma(a + j) - math.lgamma(a) - math.lgamma(j + 1))
        for j in range(N // 2)
    ]
    return 1 - rest**a * sum(terms)


@pytest.mark.parametrize("dof", [1.0, 3.0, 64.0])
def test_the_radius_has_the_law_of_the_paper(dof):
    """R²/(R² + r²) ~ Beta(N/2, D/2): the distance of Kolmogorov and Smirnov is below its 1 % point."""
    count = 4000
    noise = student_t(torch.empty(count, N, dtype=torch.float64), dof, seeds(3))
    square = noise.square().sum(1)
    place = beta_distribution(square / (square + dof), dof).sort().values
    steps = torch.arange(count, dtype=torch.float64)
    distance = torch.maximum(place - steps / count, (steps + 1) / count - place).max()
    assert float(distance) * math.sqrt(count) < 1.63
    if dof > 3:
        return
    # a radius that is drawn for each element is told apart
    alone = student_t(torch.empty(count * N, 1, dtype=torch.float64), dof, seeds(3))
    wrong = alone.reshape(count, N).square().sum(1)
    place = beta_distribution(wrong / (wrong + dof), dof).sort().values
    distance = torch.maximum(place - steps / count, (steps + 1) / count - place).max()
    assert float(distance) * math.sqrt(count) > 1.63


def test_the_direction_is_uniform():
    noise = student_t(torch.empty(4000, N, dtype=torch.float64), 1.0, seeds(5))
    unit = noise / noise.norm(dim=1, keepdim=True)
    assert unit.mean(0).abs().max() < 4 / math.sqrt(4000 * N)
    covariance = unit.T @ unit / 4000
    assert (covariance - torch.eye(N) / N).abs().max() < 4 * math.sqrt(2) / N / math.sqrt(4000)


def test_all_elements_of_a_sample_share_one_radius():
    like = torch.empty(5, 3, 4, 4)
    ratio = student_t(like, 2.0, seeds(1)) / student_t(like, math.inf, seeds(1))
    scale = ratio.flatten(1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-6, atol=0)
    assert scale[:, 0].unique().numel() == 5


def test_large_degrees_of_freedom_tend_to_the_gaussian():
    like = torch.empty(100, N, dtype=torch.float64)
    gaussian = student_t(like, math.inf, seeds(2))
    far = [
        float((student_t(like, dof, seeds(2)) - gaussian).abs().max()) for dof in (1e2, 1e4, 1e6)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_sample_depends_on_seed_and_index_alone(dtype):
    whole = student_t(torch.empty(9, 3, 2, dtype=dtype), 3.0, seeds(7))
    assert whole.dtype == dtype
    parts = [
        student_t(torch.empty(n, 3, 2, dtype=dtype), 3.0, seeds(7), first)
        for first, n in ((0, 4), (4, 5))
    ]
    assert torch.equal(whole, torch.cat(parts))
    own = student_t(torch.empty(3, 3, 2, dtype=dtype), 3.0, seeds(5, 7, 2**62))
    assert torch.equal(own[1], whole[0])
    assert not torch.equal(own[0], own[2])


def test_the_scale_of_a_uniform():
    u = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert torch.equal(student_t_scale(u, math.inf), torch.ones_like(u))
    # at D = 2 the chi-square quantile is -2 ln(1 - u)
    expected = (-torch.log1p(-u)).rsqrt()
    torch.testing.assert_close(student_t_scale(u, 2.0), expected, rtol=1e-13, atol=0)
