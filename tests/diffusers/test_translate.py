"""A plan in a scheduler's coordinates makes the same states as the solver's own, for any network and solver."""

from __future__ import annotations

import pytest
import torch

from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.steps.translate import translated
from edmfast.sampling.engine import Combine, plan_of
from edmfast.sampling.engine.machine import Machine
from edmfast.sampling.solvers import (
    DPM2,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    Heun,
    LinearMultistep,
    UniPC,
)

SIGMAS = (0.98, 0.8, 0.55, 0.3, 0.1, 0.0)
SOLVERS = (
    Euler(),
    Heun(),
    DPM2(),
    LinearMultistep(3),
    DPMSolverMultistep(3),
    DPMSolverMultistep(3, prediction="epsilon"),
    DPMSolverSinglestep(3),
    UniPC(3),
    UniPC(2, prediction="epsilon"),
)


def denoiser(x, sigma):
    """Return denoised states that depend on x nonlinearly."""
    return torch.tanh(x) / (1 + sigma)


def run(plan, x, call_model):
    machine = Machine(plan, x)
    while (call := machine.next_call()) is not None:
        machine.feed(call_model(machine.registers[call.state], call.sigma))
    return machine.registers["x"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize(
    ("kind", "prediction"),
    [
        ("ve", "epsilon"),
        ("ve", "v_prediction"),
        ("vp", "epsilon"),
        ("vp", "sample"),
        ("flow", "flow_prediction"),
        ("edm", "epsilon"),
    ],
)
def test_the_states_are_the_same(kind, prediction, solver, raw):
    frame = Frame(kind, prediction)
    levels = tuple(frame.level(sigma) for sigma in SIGMAS)
    plan = plan_of(solver, levels)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4) * levels[0]
    expected = run(plan, x, denoiser)

    def output(sample, level):
        sigma = frame.sigma_of_level(level)
        a, b = frame.denoised(sigma)
        clean = denoiser(sample / frame.alpha(sigma), level)
        return (clean - a * sample) / b if raw else clean

    inside = translated(plan, frame, levels[-1], raw)
    found = run(inside, x * frame.alpha(SIGMAS[0]), output)
    torch.testing.assert_close(found, expected * frame.alpha(SIGMAS[-1]), rtol=1e-10, atol=1e-12)
    assert translated(plan, frame, levels[-1], raw) is inside


def test_methods_without_history_have_one_pass_for_each_call():
    frame, levels = Frame("vp", "epsilon"), (9.0, 3.0, 1.0, 0.0)
    for solver, passes in ((Euler(), 1), (DPMSolverMultistep(2), 2), (UniPC(2), 3)):
        plan = translated(plan_of(solver, levels), frame, 0.0, True)
        counts = [sum(isinstance(work, Combine) for work in step.work) for step in plan.steps]
        assert max(counts) == passes
