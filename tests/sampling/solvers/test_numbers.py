"""Test numbers of the solvers in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest

from edmfast.sampling import solvers
from tests.spellings import COUNT, REAL, check_bad, check_good, name, table

ORDER, BETA = (REAL, 0.5, 0.0, 5.5), (REAL, 0.5, 0.0, 1.5)
RATE = (REAL, 0.5, -1.0, math.inf)
CASES = [
    *table("GHVB", solvers.GHVB, order=ORDER),
    *table("HeavyBall", solvers.HeavyBall, order=ORDER),
    *table("Nesterov", solvers.Nesterov, order=ORDER),
    *table("IPNDM", solvers.IPNDM, order=(COUNT, 3, 0, 5)),
    *table("DPMSolverPP2MHeavyBall", solvers.DPMSolverPP2MHeavyBall, beta=BETA),
    *table("UniPCHeavyBall", solvers.UniPCHeavyBall, order=(COUNT, 2, 0, 7), beta=BETA),
    *table("SEEDS", solvers.SEEDS, order=(COUNT, 2, 0, 4), eta=RATE, s_noise=RATE),
    *table("ReverseSDE", solvers.ReverseSDE, eta=RATE, s_noise=RATE),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
