"""The adaptive Runge-Kutta method of Dormand and Prince, with steps of its own for every sample of a batch.

A sample's steps depend on its own error alone, so that its result does not depend on the rest of the batch. A
step evaluates all samples together; one that has ended already stays where it is. The host reads three numbers
per step.

The state is a pair (y like x, q float64 [B]) with dy/du = f and dq/du = g. A step is accepted where both
rms(error of y / (atol + rtol max(|y|, |y'|))) and the same ratio of q are at most 1. The next step is longer by
the factor 0.9 ratio^(-1/5) between 0.2 and 10, and not longer after a rejection. Sources: Dormand and Prince
1980, "A family of embedded Runge-Kutta formulae"; Hairer, Norsett and Wanner 1993, "Solving Ordinary
Differential Equations I", section II.4 (the first step).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination

Rates = tuple[Tensor, Tensor]
"""The derivatives (f like x, g float64 [B])."""

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    # The last stage is the end of the step, and the first stage of the next step.
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SHORTEST = 1e-10
"""The shortest step, as a share of the whole way. Rounding hides what shorter steps could gain."""


class Solution(NamedTuple):
    """The end of an integration.

    y: like x. q: float64 [B]. evaluations: the calls of the rates. finite: bool [B], False for samples whose rates
    were not finite, which are given up.
    """

    y: Tensor
    q: Tensor
    evaluations: int
    finite: Tensor


def integrate(
    rates: Callable[[Tensor, Tensor], Rates],
    y: Tensor,
    start: float,
    end: float,
    atol: float,
    rtol: float,
) -> Solution:
    """Integrate the rates f(u [B], y) from start to end > start, from q = 0.

    Raises ValueError where the tolerances ask for steps that are too short.
    """
    u = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    q = torch.zeros_like(u)
    now = rates(u, y)
    h = _first_step(rates, u, y, now, end - start, atol, rtol)
    evaluations, rejected = 2, torch.zeros_like(u, dtype=torch.bool)
    alive = _finite(now)
    while True:
        active = alive & (u < end)
        # One read of the device per step, of all that the host must know.
        going, stuck = torch.stack(
            [active.any(), (active & (h < _SHORTEST * (end - start))).any()]
        ).tolist()
        if not going:
            return Solution(y, q, evaluations, alive)
        if stuck:
            raise ValueError(
                f"atol = {atol:g} and rtol = {rtol:g} are too small: a sample needs steps below "
                f"{_SHORTEST:g} of the way"
            )
        left = end - u
        last = h >= left
        length = torch.where(active, torch.where(last, left, h), 0.0)
        trial, total, stages = _step(rates, u, y, q, now, length)
        evaluations += 6
        ratio = _ratio(stages, length, (y, trial), (q, total), atol, rtol)
        # A trial that leaves the range of numbers is repeated with a shorter step.
        accepted = active & (ratio <= 1)
        factor = (0.9 * ratio.clamp(min=1e-30) ** -0.2).nan_to_num(nan=0.2).clamp(0.2, 10.0)
        factor = torch.where(rejected | ~accepted, factor.clamp(max=1.0), factor)
        h = torch.where(active, length * factor, h)
        # The steps shrink towards rates that are not finite, and such samples are given up in the end.
        alive = alive & ~(active & ~ratio.isfinite() & (h < 1e-6 * (end - start)))
        rejected = ~accepted
        u = torch.where(accepted, torch.where(last, end, u + length), u)
        y, q = _where(accepted, trial, y), torch.where(accepted, total, q)
        now = _where(accepted, stages[-1][0], now[0]), torch.where(accepted, stages[-1][1], now[1])


def _step(
    rates: Callable[[Tensor, Tensor], Rates],
    u: Tensor,
    y: Tensor,
    q: Tensor,
    now: Rates,
    length: Tensor,
) -> tuple[Tensor, Tensor, list[Rates]]:
    """Return (y, q, the rates of all stages) after a trial step."""
    stages = [now]
    trial, total = y, q
    for node, row in zip(_NODES, _STAGES, strict=True):
        trial = y + _times(length, _combined([f for f, _ in stages], row))
        total = q + length * _combined([g for _, g in stages], row)
        stages.append(rates(u + node * length, trial))
    return trial, total, stages


def _ratio(
    stages: list[Rates],
    length: Tensor,
    states: tuple[Tensor, Tensor],
    totals: tuple[Tensor, Tensor],
    atol: float,
    rtol: float,
) -> Tensor:
    """Return the error of every sample in units of its tolerance, float64 [B]."""
    error = _times(length, _combined([f for f, _ in stages], _ERROR))
    allowed = states[0].abs().maximum(states[1].abs()).mul_(rtol).add_(atol)
    of_states = _rms(error.div_(allowed))
    error_of_q = length * _combined([g for _, g in stages], _ERROR)
    allowed_of_q = atol + rtol * totals[0].abs().maximum(totals[1].abs())
    return of_states.maximum((error_of_q / allowed_of_q).abs())


def _first_step(
    rates: Callable[[Tensor, Tensor], Rates],
    u: Tensor,
    y: Tensor,
    now: Rates,
    way: float,
    atol: float,
    rtol: float,
) -> Tensor:
    """Return the length of the first step of every sample, float64 [B], by one evaluation of the rates."""
    scale = y.abs().mul_(rtol).add_(atol)
    size, slope = _rms(y / scale), _rms(now[0] / scale).maximum((now[1] / atol).abs())
    h = (0.01 * size / slope).nan_to_num(nan=1e-6).clamp(1e-6 * way, 0.1 * way)
    after = rates(u + h, y + _times(h, now[0]))
    bend = _rms((after[0] - now[0]) / scale).maximum(((after[1] - now[1]) / atol).abs()) / h
    longest = (0.01 / slope.maximum(bend).clamp(min=1e-15)) ** 0.2
    return (100 * h).minimum(longest).nan_to_num(nan=1e-6).clamp(1e-6 * way, way)


def _combined(tensors: list[Tensor], coefficients: tuple[float, ...]) -> Tensor:
    pairs = [pair for pair in zip(tensors, coefficients, strict=True) if pair[1]]
    return linear_combination([tensor for tensor, _ in pairs], [value for _, value in pairs])


def _times(length: Tensor, y: Tensor) -> Tensor:
    return y * length.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))


def _where(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (first.dim() - 1)), first, second)


def _rms(y: Tensor) -> Tensor:
    return y.double().flatten(1).square().mean(1).sqrt()


def _finite(rates: Rates) -> Tensor:
    return rates[0].flatten(1).isfinite().all(1) & rates[1].isfinite()
