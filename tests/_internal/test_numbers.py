"""Test the checks of numbers that public functions take."""

import json
import math

import numpy as np
import pytest
import torch

from edmfast._internal.numbers import as_float, as_int, as_seed, as_shape

WHOLE = [5, np.int64(5), np.int32(5), np.uint8(5), np.array(5), torch.tensor(5)]
REAL = [
    0.5,
    np.float32(0.5),
    np.float64(0.5),
    np.array(0.5),
    torch.tensor(0.5),
    torch.tensor(0.5).half(),
]


@pytest.mark.parametrize("value", WHOLE, ids=lambda v: type(v).__name__)
def test_whole_numbers_become_an_int(value):
    result = as_int("n", value)
    assert type(result) is int
    assert json.dumps(result) == "5"


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        torch.tensor(True),
        5.0,
        np.float64(5),
        "5",
        None,
        [5],
        torch.tensor([5]),
    ],
    ids=repr,
)
def test_anything_but_an_integer_is_refused_by_name(value):
    with pytest.raises(TypeError, match="particles must be an integer"):
        as_int("particles", value)


@pytest.mark.parametrize("value", [*WHOLE, *REAL], ids=lambda v: type(v).__name__)
def test_real_numbers_become_a_float(value):
    result = as_float("sigma", value)
    assert type(result) is float
    assert result in (5.0, 0.5)


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(False), "0.5", 1j, np.complex64(1), None, torch.ones(1), [0.5]],
    ids=repr,
)
def test_anything_but_a_real_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="sigma must be a real number"):
        as_float("sigma", value)


def test_ranges_include_their_ends():
    assert as_int("n", 1, least=1) == 1
    assert as_float("x", 1, most=1) == 1.0
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        as_int("n", 0, least=1)
    with pytest.raises(ValueError, match="n must be an integer from 0 to 3, got 4"):
        as_int("n", 4, least=0, most=3)
    with pytest.raises(ValueError, match="x must be positive and finite, got 0"):
        as_float("x", 0, positive=True)
    with pytest.raises(ValueError, match="x must be finite"):
        as_float("x", math.inf)
    assert as_float("x", math.inf, finite=False) == math.inf
    with pytest.raises(ValueError, match="x must be"):
        as_float("x", math.nan, finite=False)


def test_seeds_fit_64_bits():
    assert as_seed(np.uint64(2**64 - 1)) == 2**64 - 1
    assert as_seed(torch.tensor(-1)) == -1
    with pytest.raises(ValueError, match="seed must fit 64 bits"):
        as_seed(2**64)
    for value in (1.5, True, "1"):
        with pytest.raises(TypeError, match="seed must be an integer"):
            as_seed(value)


@pytest.mark.parametrize(
    "value",
    [(2, 3), [np.int64(2), 3], np.array([2, 3]), torch.tensor([2, 3]), torch.Size([2, 3])],
    ids=lambda v: type(v).__name__,
)
def test_a_shape_becomes_a_tuple_of_ints(value):
    result = as_shape("shape", value)
    assert result == (2, 3)
    assert all(type(size) is int for size in result)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2, TypeError, r"shape must be a sequence of integers, got 2 .*: write \(2,\)"),
        (np.int64(2), TypeError, r"write \(2,\)"),
        ("22", TypeError, "shape must be a sequence of integers"),
        ((2, 1.5), TypeError, r"shape\[1\] must be an integer"),
        ((True,), TypeError, r"shape\[0\] must be an integer"),
        ((2, 0), ValueError, r"shape\[1\] must be an integer of at least 1"),
        ((), ValueError, "shape must hold at least one size"),
    ],
)
def test_anything_but_a_shape_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        as_shape("shape", value)
