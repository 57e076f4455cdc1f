"""Test numbers of the solvers in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest

from edmfast.sampling.solvers import (
    DEIS,
    Derivative,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    DynamicThreshold,
    UniPC,
    singlestep_orders,
)
from tests.spellings import COUNT, REAL, check_bad, check_good, row, table

CASES = [
    *table(
        "DPMSolverMultistep",
        DPMSolverMultistep,
        order=(COUNT, 3, 0, 4),
        eta=(REAL, 0.5, -1.0, math.inf),
        s_noise=(REAL, 0.5, -1.0, math.inf),
    ),
    *table(
        "DPMSolverSinglestep",
        lambda **options: DPMSolverSinglestep(nodes="grid", **options),
        order=(COUNT, 2, 0, 4),
        eta=(REAL, 0.5, -1.0, math.inf),
        s_noise=(REAL, 0.5, -1.0),
    ),
    row("DPMSolverSinglestep", "orders", COUNT, 2, lambda n: DPMSolverSinglestep(orders=(n, 1)), 4),
    row(
        "DPMSolverSinglestep",
        "shares",
        REAL,
        0.25,
        lambda share: DPMSolverSinglestep(2, shares=(share,)),
        0.0,
        1.0,
    ),
    row("UniPC", "order", COUNT, 2, UniPC, 0, 7),
    row("UniPC", "skip_corrector", COUNT, 2, lambda n: UniPC(skip_corrector=(n,)), -1),
    row("DEIS", "order", COUNT, 2, DEIS, 0, 5),
    row("Derivative", "points", COUNT, 2, lambda n: Derivative((1, n))),
    row("Derivative", "value", REAL, 0.5, lambda v: Derivative((1,), "linear", v), math.inf),
    *table(
        "DynamicThreshold",
        DynamicThreshold,
        quantile=(REAL, 0.5, -0.5, 1.5),
        maximum=(REAL, 0.5, 0.0, -1.0),
        ceiling=(REAL, 2.0, 0.5),
    ),
    *table(
        "singlestep_orders",
        lambda **options: singlestep_orders(**({"calls": 7, "order": 3} | options)),
        calls=(COUNT, 8, 0),
        order=(COUNT, 2, 0, 4),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.entry}-{case.argument}")
def test_numbers_in_every_spelling(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.entry}-{case.argument}")
def test_wrong_numbers(case):
    check_bad(case)
