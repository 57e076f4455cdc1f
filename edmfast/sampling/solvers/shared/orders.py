"""The order of every step: multistep solvers warm up and may end with lower orders, and singlestep ones have
plans."""

from __future__ import annotations

from edmfast._internal.numbers import as_int

FEW_STEPS = 15
"""Below this number of steps, "lower_order_final" lowers the orders of the last steps (DPM-Solver's rule)."""


def multistep_order(
    i: int, steps: int, order: int, *, lower_order_final: bool, euler_at_final: bool = False
) -> int:
    """Return the order of step i of a multistep solver, whose first steps lack past points.

    lower_order_final: among fewer than 15 steps, the last two have orders of at most 2 and 1.
    euler_at_final: the last step is of first order.
    """
    order = min(order, i + 1)
    if lower_order_final and steps < FEW_STEPS:
        order = min(order, steps - i)
    return 1 if euler_at_final and i == steps - 1 else order


def singlestep_orders(calls: int, order: int) -> tuple[int, ...]:
    """Return the orders of a singlestep solver's steps, which need `calls` model calls together.

    A step of order p needs p calls. The plan of order 3 has calls // 3 + 1 steps: all of order 3 but the last two
    or one, which are 2, 1 where calls is a multiple of 3, and otherwise 1 or 2. Order 2 has steps of order 2, and
    a last one of order 1 where calls is odd. Source: Lu et al. 2022, arXiv 2206.00927, section 3.4.

    Args:
        calls: the number of model calls, at least 1.
        order: the largest order, 1 to 3.

    Returns:
        The orders of the steps, whose sum is calls.

    Raises:
        TypeError: an argument that is no integer.
        ValueError: calls < 1, or an order other than 1, 2 and 3.
    """
    calls = as_int("calls", calls, least=1)
    order = as_int("order", order, least=1, most=3)
    whole, rest = divmod(calls, order)
    if order == 3 and rest == 0:
        return (3,) * (whole - 1) + (2, 1)
    return (order,) * whole + ((rest,) if rest else ())
