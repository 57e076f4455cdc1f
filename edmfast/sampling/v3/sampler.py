"""The sampler of DPM-Solver-v3, which has a loop of its own because its coefficients differ between elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_bool, as_int
from edmfast._internal.progress import count_steps
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback, first_state, report
from edmfast.sampling.checks import check_start, checked_end
from edmfast.sampling.solvers.thresholding import Threshold
from edmfast.sampling.v3.coefficients import Move, move
from edmfast.sampling.v3.statistics import DPMSolverV3Statistics


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of one step, in the dtype and on the device of the states.

    remain: 1 - l at its start, so that the remainder is f = remain x - D. predict: the step, or None for one to 0.
    correct: the step with the evaluation at its end, or None.
    """

    remain: Tensor
    predict: Move | None
    correct: Move | None


@without_gradients
def sample_dpm_solver_v3(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    statistics: DPMSolverV3Statistics,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    order: int = 3,
    corrector: bool = True,
    lower_order_final: bool = True,
    threshold: Threshold | None = None,
) -> Tensor:
    """Sample with DPM-Solver-v3, in one model call per step.

    The first steps have lower orders, and a step to 0 is of first order. Source: Zheng et al. 2023,
    arXiv 2310.13268, algorithm 1.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0.
        statistics: the statistics of the model, see `fit_dpm_solver_v3`.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised, which it may
            change in place.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        order: the number of evaluations that a step interpolates, 1 to 3.
        corrector: repeat every step but the last with the evaluation at its end, which costs no call.
        lower_order_final: lower the order so that the last step has order 1, the one before it 2, and so on.
        threshold: a function that is applied to the denoised states, such as `solvers.DynamicThreshold`, or None.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the statistics are none, or the model returns no
            tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, statistics of
            another shape, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    levels = check_start(x, sigmas, rising=False)
    if not isinstance(statistics, DPMSolverV3Statistics):
        raise TypeError(
            f"statistics must be DPMSolverV3Statistics, got {type(statistics).__name__}"
        )
    if statistics.l.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"statistics are of states of shape {tuple(statistics.l.shape[1:])}, but x has {tuple(x.shape[1:])}"
        )
    order = as_int("order", order, least=1, most=3)
    corrector = as_bool("corrector", corrector)
    lower = as_bool("lower_order_final", lower_order_final)
    steps = _coefficients(statistics, tuple(levels), order, corrector, lower, x)
    condition = dict(extra_args or {})
    x = base = first_state(x, callback)
    remainders: list[Tensor] = []
    pending: Move | None = None
    for i in count_steps(len(steps), disable):
        denoised = call_denoiser(model, x, x.new_full((len(x),), levels[i]), **condition)
        if threshold is not None:
            denoised = threshold(denoised)
        report(callback, x, i, sigmas[i], sigmas[i], denoised)
        remainders.insert(0, steps[i].remain * x - denoised)
        if pending is not None:
            x = _moved(base, pending, {-1: remainders[0], **dict(enumerate(remainders[1:]))})
        base, pending, predict = x, steps[i].correct, steps[i].predict
        if predict is None:
            return checked_end(denoised.clone())
        x = _moved(x, predict, dict(enumerate(remainders)))
        del remainders[order:]
    return checked_end(x)


def _moved(x: Tensor, step: Move, remainders: dict[int, Tensor]) -> Tensor:
    result = torch.addcmul(step.constant, step.decay, x)
    for point, factor in zip(step.points, step.factors, strict=True):
        result.addcmul_(factor, remainders[point], value=-1)
    return result


def _coefficients(
    statistics: DPMSolverV3Statistics,
    levels: tuple[float, ...],
    order: int,
    corrector: bool,
    lower_order_final: bool,
    x: Tensor,
) -> list[Coefficients]:
    """Return the coefficients of all steps. Those of the last grid are kept with the statistics."""
    key = (levels, order, corrector, lower_order_final, x.dtype, x.device)
    if key not in statistics.plans:
        statistics.plans.clear()
        steps, places = len(levels) - 1, [-math.log(s) if s else math.inf for s in levels]
        results = []
        for i in range(steps):
            remain = 1 - statistics.at(places[i])[0]
            now = min(order, i + 1, steps - i if lower_order_final else order)
            predict = correct = None
            if levels[i + 1] > 0:
                before = {k: places[i - k] for k in range(now)}
                past = range(1, now)
                predict = move(statistics, before, places[i + 1], past)
                if corrector and i < steps - 1:
                    after = {**before, -1: places[i + 1]}
                    correct = move(statistics, after, places[i + 1], (*past, -1))
            results.append(Coefficients(_cast(remain, x), _like(predict, x), _like(correct, x)))
        statistics.plans[key] = results
    kept: list[Coefficients] = statistics.plans[key]
    return kept


def _cast(value: Tensor, x: Tensor) -> Tensor:
    return value.to(device=x.device, dtype=x.dtype)


def _like(step: Move | None, x: Tensor) -> Move | None:
    if step is None:
        return None
    factors = tuple(_cast(factor, x) for factor in step.factors)
    return Move(_cast(step.decay, x), _cast(step.constant, x), step.points, factors)
