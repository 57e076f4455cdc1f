"""Perpendicular negative guidance against its formula, sample by sample."""

from __future__ import annotations

import pytest
import torch

from edmfast.sampling import guidance

F64 = torch.float64
UNCONDITIONAL = {"direction": torch.zeros(1, 3, dtype=F64)}


def denoiser(x, sigma, direction):
    """Return states whose differences between branches are the differences of their directions."""
    return 0.5 * x + direction


def draw(seed, rows=4):
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_negative_parts_across_the_positive_direction_are_removed(count, batched):
    x, positive = draw(0), draw(1)
    negatives = [draw(2 + i) for i in range(count)]
    shares = [0.5 + i for i in range(count)]
    guided = guidance.PerpendicularNegative(
        denoiser,
        2.5,
        unconditional=UNCONDITIONAL,
        negative=[{"direction": n} for n in negatives],
        negative_weight=shares,
        batched=batched,
    )
    result = guided(x, torch.ones(4, dtype=F64), direction=positive)
    for b in range(4):
        p = positive[b]
        removed = torch.zeros(3, dtype=F64)
        for share, negative in zip(shares, negatives, strict=True):
            q = negative[b]
            removed += share * (q - (q @ p) / (p @ p) * p)
        assert abs(removed @ p) < 1e-13
        expected = 0.5 * x[b] + 2.5 * (p - removed)
        torch.testing.assert_close(result[b], expected, rtol=1e-13, atol=1e-13)


def test_a_negative_condition_along_the_positive_one_changes_nothing():
    x, positive = draw(0), draw(1)
    options = {"unconditional": UNCONDITIONAL}
    guided = guidance.PerpendicularNegative(
        denoiser, 2.5, negative={"direction": -3 * positive}, **options
    )
    plain = guidance.ClassifierFreeGuidance(denoiser, 2.5, **options)
    sigma = torch.ones(4, dtype=F64)
    torch.testing.assert_close(
        guided(x, sigma, direction=positive),
        plain(x, sigma, direction=positive),
        rtol=1e-13,
        atol=1e-13,
    )


def test_without_a_positive_direction_the_whole_negative_one_acts():
    x, negative = draw(0), draw(2)
    guided = guidance.PerpendicularNegative(
        denoiser, 2.0, unconditional=UNCONDITIONAL, negative={"direction": negative}
    )
    result = guided(x, torch.ones(4, dtype=F64), direction=torch.zeros(4, 3, dtype=F64))
    torch.testing.assert_close(result, 0.5 * x - 2.0 * negative, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative": []}, "negative must be 1 to 7 dictionaries of conditions, got 0"),
        (
            {"negative": [{"direction": 0.0}] * 2, "negative_weight": [1.0]},
            "one number for each of the 2 negative conditions, got 1",
        ),
        ({"negative": 3}, "negative must be a dictionary of conditions"),
    ],
)
def test_wrong_negative_conditions_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        guidance.PerpendicularNegative(denoiser, 2.0, unconditional=UNCONDITIONAL, **options)
