"""The solver of a configuration, and its plan in the coordinates of the scheduler."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.families import Family
from edmfast.diffusers.steps.ipndm import angle_plan
from edmfast.diffusers.steps.late_multistep import LateLinearMultistep
from edmfast.diffusers.steps.translate import translated
from edmfast.sampling.engine import Call, Combine, Plan, Solver, Step, plan_of, register
from edmfast.sampling.solvers import (
    DPM2,
    AncestralDPM2,
    AncestralEuler,
    Derivative,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    Heun,
    LinearMultistep,
    TaylorSchedule,
    TaylorStep,
    UniPC,
)
from edmfast.sampling.solvers.shared.orders import multistep_order

Settings = Mapping[str, Any]
# Below this number of steps, `lower_order_final` counts.
_FEW_STEPS = 15


def plan_for(
    family: Family,
    settings: Settings,
    frame: Frame,
    steps: tuple[float, ...],
    alphas: tuple[float, ...],
    begin: int,
    raw: bool,
) -> Plan:
    """Return the plan of the steps from number `begin` on.

    Args:
        steps: the T + 1 levels of the solver's steps, in the schedule's own sigma. alphas: their signal, for
            `IPNDMScheduler` only.
        raw: the calls return the model's outputs, and otherwise denoised states.
    """
    if family.name == "FlowMatchEulerDiscreteScheduler":
        return _flow_plan(steps[begin:], settings["stochastic_sampling"])
    if family.name == "IPNDMScheduler":
        return angle_plan(steps[begin:], alphas[begin:])
    levels = tuple(frame.level(sigma) for sigma in steps)
    if len(levels) > 1 and levels[-2] < levels[-1] < levels[-2] * (1 + 1e-6):
        # the last two levels are the same one, rounded differently
        levels = (*levels[:-1], levels[-2])
    if family.name == "LMSDiscreteScheduler":
        solver: Solver = LateLinearMultistep(4, levels[:begin]) if begin else LinearMultistep(4)
    else:
        solver = solver_for(family, settings, len(steps) - 1, begin)
    return translated(plan_of(solver, levels[begin:]), frame, levels[-1], raw)


def solver_for(family: Family, settings: Settings, total: int, begin: int) -> Solver:
    """Return the solver of a run of `total` steps that starts at step number `begin`."""
    simple: dict[str, Solver] = {
        "EulerDiscreteScheduler": Euler(),
        "EDMEulerScheduler": Euler(),
        "EulerAncestralDiscreteScheduler": AncestralEuler(),
        "HeunDiscreteScheduler": Heun(),
        "KDPM2DiscreteScheduler": DPM2(),
        "KDPM2AncestralDiscreteScheduler": AncestralDPM2(),
    }
    if family.name in simple:
        return simple[family.name]
    few = settings["lower_order_final"] and total < _FEW_STEPS
    order = settings["solver_order"]
    if family.name == "DEISMultistepScheduler":
        return deis(order, total - begin, few)
    if family.name == "UniPCMultistepScheduler":
        return UniPC(
            order,
            form=settings["solver_type"],
            prediction="denoised" if settings["predict_x0"] else "epsilon",
            lower_order_final=settings["lower_order_final"],
            skip_corrector=tuple(
                step - begin for step in settings["disable_corrector"] if step >= begin
            ),
        )
    algorithm = settings["algorithm_type"]
    stochastic = algorithm.startswith("sde")
    shared: dict[str, Any] = {
        "prediction": "denoised" if algorithm.endswith("++") else "epsilon",
        "solver_type": settings["solver_type"],
        "eta": float(stochastic),
        "shifted_third": stochastic,
    }
    if family.name == "DPMSolverSinglestepScheduler":
        orders = blocks(stage_orders(settings, total)[begin:])
        stages: Any = "midpoint" if settings["solver_type"] == "midpoint" else "exact"
        return DPMSolverSinglestep(nodes="grid", orders=orders, stages=stages, **shared)
    return DPMSolverMultistep(
        order,
        lower_order_final=few,
        euler_at_final=settings["euler_at_final"] or settings["final_sigmas_type"] == "zero",
        **shared,
    )


@functools.lru_cache(maxsize=64)
def deis(order: int, steps: int, few: bool) -> Solver:
    """Return DEIS with polynomials in ln sigma (log-rho-AB), whose integrals are those of Taylor steps of epsilon.

    few: the last two steps have lower orders. Source: Zhang and Chen 2022, arXiv 2204.13902.
    """
    kinds = []
    for i in range(steps):
        past = tuple(range(1, multistep_order(i, steps, order, lower_order_final=few)))
        kinds.append(TaylorStep("epsilon", tuple(Derivative(past) for _ in past)))
    return TaylorSchedule(tuple(kinds))


def stage_orders(settings: Settings, total: int) -> list[int]:
    """Return the orders of the stages of diffusers' singlestep scheduler: 1, 2, 3, 1, 2, 3 and so on.

    A number of steps that the order does not divide, and an end at 0, need lower orders at the end. diffusers then
    changes the setting `lower_order_final`, with a warning.
    """
    order: int = settings["solver_order"]
    zero = settings["final_sigmas_type"] == "zero"
    whole, rest = divmod(total, order)
    cycle = list(range(1, order + 1))
    orders = cycle * whole + cycle[:rest]
    if settings["lower_order_final"] or rest or zero:
        if order == 3 and rest == 0:
            orders = cycle * (whole - 1) + [1, 2, 1]
        elif order == 2 and rest == 0:
            orders = cycle * (whole - 1) + [1, 1]
    if zero:
        orders[-1] = 1
    return orders


def blocks(orders: list[int]) -> tuple[int, ...]:
    """Return the numbers of stages between stages of order 1. A run may begin inside of a block."""
    starts = [i for i, order in enumerate(orders) if order == 1 or i == 0]
    return tuple(end - start for start, end in pairwise([*starts, len(orders)]))


@functools.lru_cache(maxsize=64)
def _flow_plan(sigmas: tuple[float, ...], stochastic: bool) -> Plan:
    """Return Euler's method for a flow, x' = x + (sigma_next - sigma) v, or its form with fresh noise.

    The form with noise goes to the predicted clean states, and adds new noise of the next level.
    """
    x, velocity = register("x"), register("v")
    steps = []
    for sigma, sigma_next in pairwise(sigmas):
        move = Combine("x", x + (sigma_next - sigma) * velocity)
        if stochastic:
            clean = (1 - sigma_next) * (x - sigma * velocity)
            move = Combine("x", clean, sigma_next, (sigma, sigma_next))
        steps.append(Step(sigma, (Call(sigma, out="v"), move)))
    return Plan(tuple(steps))
