"""Test numbers of log_density in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import pytest
import torch

import edmfast
from edmfast import analytic
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)
SIGMAS = [4.0, 1.0, 0.5]

CASES = [
    *table(
        "log_density",
        lambda **o: edmfast.log_density(PAIR, X, SIGMAS, **o).paths,
        paths=(COUNT, 2, 0),
        probes=(COUNT, 2, 0),
        batch_size=(COUNT, 2, 0),
        seed=(SEED, 7),
    ),
    row(
        "log_density",
        "sigmas",
        REAL,
        0.5,
        lambda s: edmfast.log_density(PAIR, X, [4.0, s]).paths,
        0.0,
    ),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
