"""Test the settings of the solvers: numbers in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture
from edmfast.sampling import solvers
from tests.spellings import COUNT, REAL, check_bad, check_good, name, row, table

ORDER, BETA = (REAL, 0.5, 0.0, 5.5), (REAL, 0.5, 0.0, 1.5)
RATE = (REAL, 0.5, -1.0, math.inf)
# The ancestral split has a limit for an infinite eta.
ETA = (REAL, 0.5, -1.0)
LEVEL = (REAL, 0.5, -1.0)
TIMES = (0.0, 1.0, 2.0)
CASES = [
    *table("GHVB", solvers.GHVB, order=ORDER),
    *table("HeavyBall", solvers.HeavyBall, order=ORDER),
    *table("Nesterov", solvers.Nesterov, order=ORDER),
    *table("IPNDM", solvers.IPNDM, order=(COUNT, 3, 0, 5)),
    *table("LinearMultistep", solvers.LinearMultistep, order=(COUNT, 3, 0, 9)),
    *table("DPMSolverPP2MHeavyBall", solvers.DPMSolverPP2MHeavyBall, beta=BETA),
    *table("UniPCHeavyBall", solvers.UniPCHeavyBall, order=(COUNT, 2, 0, 7), beta=BETA),
    row(
        "UniPCHeavyBall",
        "skip_corrector",
        COUNT,
        2,
        lambda n: solvers.UniPCHeavyBall(skip_corrector=(n,)),
        -1,
    ),
    *table("SEEDS", solvers.SEEDS, order=(COUNT, 2, 0, 4), eta=RATE, s_noise=RATE),
    *table("ReverseSDE", solvers.ReverseSDE, eta=RATE, s_noise=RATE),
    *table(
        "Churn",
        solvers.Churn,
        s_churn=LEVEL,
        s_tmin=LEVEL,
        s_tmax=LEVEL,
        s_noise=RATE,
    ),
    *table("AncestralEuler", solvers.AncestralEuler, eta=ETA, s_noise=RATE),
    *table("AncestralDPM2", solvers.AncestralDPM2, eta=ETA, s_noise=RATE),
    *table("AncestralDPMSolverPP2S", solvers.AncestralDPMSolverPP2S, eta=ETA, s_noise=RATE),
    *table(
        "DPMSolverPPSDE",
        solvers.DPMSolverPPSDE,
        eta=ETA,
        s_noise=RATE,
        r=(REAL, 0.25, 0.0, -1.0, math.inf),
    ),
    *table("DPMSolverPP2MSDE", solvers.DPMSolverPP2MSDE, eta=RATE, s_noise=RATE),
    *table("DPMSolverPP3MSDE", solvers.DPMSolverPP3MSDE, eta=RATE, s_noise=RATE),
    *table(
        "DPMSolverFast",
        lambda **options: solvers.DPMSolverFast(**({"n": 2} | options)),
        n=(COUNT, 4, 0),
        eta=RATE,
        s_noise=RATE,
    ),
    row(
        "DPMSolverFast",
        "times",
        REAL,
        3.0,
        lambda time: solvers.DPMSolverFast(3, times=(*TIMES[:2], time)),
        math.inf,
    ),
    *table(
        "DPMSolverMultistep",
        solvers.DPMSolverMultistep,
        order=(COUNT, 3, 0, 4),
        eta=RATE,
        s_noise=RATE,
    ),
    *table(
        "DPMSolverSinglestep",
        lambda **options: solvers.DPMSolverSinglestep(nodes="grid", **options),
        order=(COUNT, 2, 0, 4),
        eta=RATE,
        s_noise=RATE,
    ),
    row(
        "DPMSolverSinglestep",
        "orders",
        COUNT,
        2,
        lambda n: solvers.DPMSolverSinglestep(orders=(n, 1)),
        4,
    ),
    row(
        "DPMSolverSinglestep",
        "shares",
        REAL,
        0.25,
        lambda share: solvers.DPMSolverSinglestep(2, shares=(share,)),
        0.0,
        1.0,
    ),
    row("UniPC", "order", COUNT, 2, solvers.UniPC, 0, 7),
    row("UniPC", "skip_corrector", COUNT, 2, lambda n: solvers.UniPC(skip_corrector=(n,)), -1),
    row("DEIS", "order", COUNT, 2, solvers.DEIS, 0, 5),
    row("Derivative", "points", COUNT, 2, lambda n: solvers.Derivative((1, n)), 0, -2),
    row(
        "Derivative",
        "value",
        REAL,
        0.5,
        lambda value: solvers.Derivative((1,), "linear", value),
        math.inf,
    ),
    *table(
        "DynamicThreshold",
        solvers.DynamicThreshold,
        quantile=(REAL, 0.5, -0.5, 1.5),
        maximum=(REAL, 0.5, 0.0, -1.0),
        ceiling=(REAL, 2.0, 0.5),
    ),
    *table(
        "singlestep_orders",
        lambda **options: solvers.singlestep_orders(**({"calls": 7, "order": 3} | options)),
        calls=(COUNT, 8, 0),
        order=(COUNT, 2, 0, 4),
    ),
]
STEP = solvers.TaylorStep()
# The settings without which a solver cannot be made.
NEEDED = {
    "DPMSolverFast": {"n": 2},
    "Derivative": {"points": (1,)},
    "TaylorSchedule": {"kinds": (STEP,)},
}
CHOICES = {
    *("corrector", "euler_at_final", "form", "lower_order_final", "method", "nodes"),
    *("prediction", "rule", "shifted_third", "solver_type", "stages", "start_at_zero"),
    *("variable",),
}
OBJECTS = {"churn", "corrector", "derivatives", "dtype", "kinds", "schedule", "threshold"}
SEQUENCES = {"orders", "points", "shares", "skip_corrector", "times"}
SETTINGS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}-{field.name}")
    for kind in (getattr(solvers, entry) for entry in solvers.__all__)
    if dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind)
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)


@pytest.mark.parametrize(("kind", "setting"), SETTINGS)
def test_no_setting_takes_everything(kind, setting):
    held = {(case.entry, case.argument) for case in CASES}
    assert (kind.__name__, setting) in held or setting in CHOICES | OBJECTS
    options = NEEDED.get(kind.__name__, {})
    with pytest.raises(TypeError, match=rf"^{setting}(\[0\])? must be .*got .*object"):
        kind(**(options | {setting: object()}))
    if setting in CHOICES - OBJECTS:
        with pytest.raises((TypeError, ValueError), match=f"^{setting} must be .*got 'other'"):
            kind(**(options | {setting: "other"}))
    if setting in SEQUENCES | {"kinds", "derivatives"}:
        with pytest.raises(TypeError, match=f"^{setting} must be a sequence of .*got 3$"):
            kind(**(options | {setting: 3}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.LinearMultistep(order=9), "order must be an integer from 1 to 7, got 9"),
        (lambda: solvers.Churn(s_churn=-1), "s_churn must be at least 0, got -1"),
        (lambda: solvers.Derivative((0,)), r"points must be among -1, 1, 2, \.\.\., got \(0,\)"),
        (lambda: solvers.Derivative(()), r"points must be among -1, 1, 2, \.\.\., got \(\)"),
        (lambda: solvers.DPMSolverPPSDE(r=0), "r must be positive and finite, got 0"),
        (lambda: solvers.DPMSolverFast(3, times=(0, 1)), r"times must be empty or \[3\] for n = 3"),
        (lambda: solvers.TaylorSchedule(()), "kinds must hold at least one TaylorStep"),
    ],
)
def test_messages_say_what_is_accepted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lists_and_tensors_are_sequences_of_settings():
    rules = [solvers.Derivative([1])]
    step = solvers.TaylorStep(derivatives=rules, corrector=rules)
    assert hash(step) == hash(solvers.TaylorStep("denoised", tuple(rules), tuple(rules)))
    orders = solvers.DPMSolverSinglestep(orders=torch.tensor([2, 1]))
    assert orders == solvers.DPMSolverSinglestep(orders=(2, 1))


def test_the_rule_heun_is_not_the_midpoint_rule():
    mixture, sigmas = GaussianMixture([[1.0, 0.0]], [0.5]), torch.tensor([4.0, 2.0, 1.0])
    x = torch.linspace(-1, 1, 6).reshape(3, 2)

    def end(solver_type):
        solver = solvers.DPMSolverPP2MSDE(0.0, solver_type=solver_type)
        return sampling.sample(mixture, x, sigmas, solver, disable=True)

    torch.testing.assert_close(
        end("heun"),
        sampling.sample_dpmpp_2m_sde(mixture, x, sigmas, eta=0, solver_type="heun", disable=True),
        rtol=0,
        atol=0,
    )
    assert (end("heun") - end("midpoint")).abs().max() > 5e-4
