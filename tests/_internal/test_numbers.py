import json
import math

import numpy as np
import pytest
import torch

from edmfast._internal.numbers import as_float, as_int, as_seed

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
    found = as_int("n", value)
    assert type(found) is int
    assert json.dumps(found) == "5"


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
def test_what_is_no_integer_is_refused_by_its_name(value):
    with pytest.raises(TypeError, match="particles must be an integer"):
        as_int("particles", value)


@pytest.mark.parametrize("value", [*WHOLE, *REAL], ids=lambda v: type(v).__name__)
def test_real_numbers_become_a_float(value):
    found = as_float("sigma", value)
    assert type(found) is float
    assert found in (5.0, 0.5)


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(False), "0.5", 1j, np.complex64(1), None, torch.ones(1), [0.5]],
    ids=repr,
)
def test_what_is_no_real_number_is_refused_by_its_name(value):
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
