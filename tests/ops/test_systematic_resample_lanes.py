"""Small populations share vectors; any number of them, of any size and condition, has the reference's bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edmfast.ops import systematic_resample
from edmfast.ops.systematic_resample import reference

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 700.0, -700.0, 1e-310, -43.6, -43.7, -60.0]


def assert_same(log_weights, uniform, threshold):
    ours = systematic_resample(log_weights, uniform, ess_threshold=threshold)
    truth = reference.systematic_resample(log_weights, uniform, threshold)
    for name, a, b in zip(ours._fields, ours, truth, strict=True):
        assert bool(((a == b) | ((a != a) & (b != b))).all()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("populations", [1, 2, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("particles", [1, 2, 3, 16, 63, 64, 65])
def test_any_number_of_any_size(populations, particles, dtype, generator):
    log_weights = torch.randn(populations, particles, generator=generator, dtype=dtype) * 3
    choice = torch.randint(len(SPECIAL), log_weights.shape, generator=generator)
    rare = torch.rand(log_weights.shape, generator=generator) < 0.1
    log_weights = torch.where(rare, torch.tensor(SPECIAL, dtype=dtype)[choice], log_weights)
    log_weights[populations // 2] = -math.inf
    log_weights[populations // 3] = math.nan
    uniform = torch.rand(populations, dtype=torch.float64, generator=generator)
    for threshold in (0.0, 0.5, 1.0):
        assert_same(log_weights, uniform, threshold)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 70).flatmap(
        lambda n: st.lists(
            st.lists(
                st.one_of(st.floats(width=32), st.floats(-80, 1, width=32)), min_size=n, max_size=n
            ),
            min_size=1,
            max_size=20,
        )
    ),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1),
)
def test_whatever_the_weights(rows, point, threshold):
    log_weights = torch.tensor(rows)
    assert_same(log_weights, torch.full((len(rows),), point, dtype=torch.float64), threshold)
