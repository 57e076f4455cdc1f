"""One engine for all plain samplers: a solver describes its steps, and the engine runs them.

A solver turns noise levels into a plan, which lists model calls and linear combinations with fixed coefficients.
The coefficients depend on the levels alone, so they are computed once in float64 and kept for every run over the
same levels. Each combination is one pass over the states by `edmfast.ops.linear_combination`.
"""

from edmfast.sampling.engine.checked_plan import plan_of
from edmfast.sampling.engine.expression import Expression, register
from edmfast.sampling.engine.machine import Machine, requests_of
from edmfast.sampling.engine.plan import Call, Combine, Plan, Solver, Step

__all__ = [
    "Call",
    "Combine",
    "Expression",
    "Machine",
    "Plan",
    "Solver",
    "Step",
    "plan_of",
    "register",
    "requests_of",
]
