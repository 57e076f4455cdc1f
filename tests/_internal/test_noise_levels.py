"""Test the one check of noise levels that samplers, runs and diagnostics share."""

import math

import pytest
import torch

from edmfast._internal.noise_levels import as_noise_levels, check_level, check_order, check_squares


def test_levels_become_floats():
    assert as_noise_levels(torch.tensor([2.0, 1.0, 0.0])) == [2.0, 1.0, 0.0]
    assert as_noise_levels([3, 2.5], last_zero=False) == [3.0, 2.5]


@pytest.mark.parametrize(
    ("levels", "last_zero", "text"),
    [
        ([], True, "at least two positive"),
        ([1.0], True, "at least two positive"),
        ([1.0, 0.0], True, "at least two positive"),
        ([2.0, 1.0, -1.0], True, "at least two positive"),
        ([2.0, 1.0, 0.0], False, "at least two positive"),
        ([1.0, 2.0], True, r"decrease strictly .* sigmas\[1\] = 2.0"),
        ([2.0, 2.0], True, "decrease strictly"),
        ([math.inf, 1.0], True, r"sigmas\[0\] must be finite"),
    ],
)
def test_bad_levels(levels, last_zero, text):
    with pytest.raises(ValueError, match=text):
        as_noise_levels(levels, last_zero=last_zero)


def test_what_is_no_sequence_is_refused():
    with pytest.raises(TypeError, match="sequence of levels"):
        as_noise_levels(3.0)


def test_rising_levels_start_above_zero():
    check_order([0.1, 1.0], rising=True)
    with pytest.raises(ValueError, match="start above 0"):
        check_order([0.0, 1.0], rising=True)


def test_squares_fit_the_dtype():
    check_squares([1e30, 0.0])
    with pytest.raises(ValueError, match=r"sigmas\[1\].*float32"):
        check_squares([1.0, 1e-30], torch.float32)


@pytest.mark.parametrize(
    ("level", "dtype"),
    [
        (1e20, torch.float32),
        (1e-20, torch.float32),
        (1e20, torch.bfloat16),
        (1e160, torch.float64),
        (1e-160, torch.float64),
        (1e5, torch.float16),
        (math.inf, torch.float64),
        (math.nan, torch.float32),
    ],
)
def test_levels_without_a_square_are_refused(level, dtype):
    check_level("sigma", 80.0, dtype)
    check_level("sigma", 0.002, dtype)
    with pytest.raises(ValueError, match=r"sigma must be from .* where its square fits"):
        check_level("sigma", level, dtype)
