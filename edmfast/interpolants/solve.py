"""The probability flow of an interpolant and its SDEs, forward and backward in time.

For the drift b and score s of an interpolant, and any epsilon(t) >= 0, the states have the density of x_t at every
time under each of

    dx/dt = b(x, t),
    dx = (b + epsilon s) dt + sqrt(2 epsilon) dW     with t increasing,
    dx = (b - epsilon s) dt + sqrt(2 epsilon) dW     with t decreasing.

Methods for the ODE: Euler (order 1), Heun (2), and the classical Runge-Kutta method (4). Methods for the SDE:
Euler-Maruyama (weak order 1), and Heun's, whose predictor and corrector share the noise of the step:

    y = x + h f(x, t) + w z,    x' = x + h/2 (f(x, t) + f(y, t + h)) + w z,    w² = 2 int epsilon dt.

The noise is additive, so that this has weak order 2. Simpson's rule gives w.
Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797; Kloeden and Platen 1992, chapter 15.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.progress import progress_bar
from edmfast._internal.seeds import as_seeds
from edmfast.interpolants.arguments import Times, as_schedule, check_states
from edmfast.interpolants.fields import Drift, Fields, drift_and_score_of, drift_of
from edmfast.interpolants.velocity_denoiser import Velocity
from edmfast.interpolants.weighted_step import run_noise, weighted_sum

Epsilon = float | Callable[[float], float]

SDE_METHODS = ("euler", "heun")


@without_gradients
def solve_ode(
    model: Fields | Velocity,
    x: Tensor,
    times: Times,
    *,
    method: str = "heun",
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Carry states along the probability flow dx/dt = b(x, t) of an interpolant or of a velocity network.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        model: an object with drift(x, t), such as `InterpolantModel` or `OneSidedModel`; or a velocity network
            velocity(x, t [B]) whose time lies within [0, 1].
        x: the states [B, *shape] at times[0].
        times: [T + 1] within [0, 1], strictly increasing (base to data) or strictly decreasing (data to base).
        method: "euler" with T calls of the model, "heun" with 2 T, or "rk4" with 4 T.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called before each step with a dictionary of x, i, t and drift.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.

    Returns:
        The states [B, *shape] at times[-1], without gradients.

    Raises:
        TypeError: x is no floating-point tensor, times are no numbers, or the model returns no floating tensor.
        ValueError: an unknown method, x or times of another shape, NaN or infinity in x, times out of order, or a
            model that returns another shape.

    Warns:
        RuntimeWarning: some samples are NaN or infinite at the end.
    """
    check_states(x)
    levels = as_schedule(times)
    step = ode_step(method)
    drift = drift_of(model, dict(extra_args or {}))
    with progress_bar(len(levels) - 1, disable=disable) as bar:
        for i, (t, following) in enumerate(itertools.pairwise(levels)):
            slope = drift(x, t)
            if callback is not None:
                callback({"x": x, "i": i, "t": t, "drift": slope})
            x = step(drift, x, slope, t, following)
            bar.update()
    return _checked_end(x)


@without_gradients
def solve_sde(
    model: Fields,
    x: Tensor,
    times: Times,
    *,
    epsilon: Epsilon = 1.0,
    method: str = "heun",
    seed: Any = None,
    first_sample: int = 0,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Carry states along the SDE of an interpolant with the diffusion epsilon(t), forward or backward in time.

    Every epsilon gives the same densities at all times; a larger one forgets errors of the model sooner and needs
    shorter steps. The noise of a sample depends on its seed, its index and the step alone.

    Sources: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797; Kloeden and Platen 1992,
    chapter 15 (Heun's method with additive noise).

    Args:
        model: an object with drift(x, t) and drift_and_score(x, t), such as `InterpolantModel` of a drift and a
            noise network, `OneSidedModel` of a denoiser, or `GaussianMixtureInterpolant`.
        x: the states [B, *shape] at times[0].
        times: [T + 1] within [0, 1], strictly increasing (base to data) or strictly decreasing (data to base). A
            score made of a noise network is not defined where gamma = 0: use for example
            torch.linspace(1e-4, 1 - 1e-4, 101).
        epsilon: the diffusion, at least 0: a number, or a function of the time t, a float.
        method: "euler" (Euler-Maruyama) with T calls of the model, or "heun" with 2 T.
        seed: an integer of 64 bits for all samples, or [B] of them, one for each sample. None takes one draw of
            torch's default CPU generator.
        first_sample: the index of x[0] within the run, where a batch with one seed is split over several calls.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called before each step with a dictionary of x, i, t and drift, where drift includes the score.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.

    Returns:
        The states [B, *shape] at times[-1], without gradients.

    Raises:
        TypeError: x is no floating-point tensor, a number of the wrong type, or a model without these methods.
        ValueError: an unknown method, x or times of another shape, NaN or infinity in x, times out of order, or an
            epsilon that is negative or not finite.

    Warns:
        RuntimeWarning: some samples are NaN or infinite at the end.
    """
    check_states(x)
    levels = as_schedule(times)
    if method not in SDE_METHODS:
        raise ValueError(f"method must be one of {[*SDE_METHODS]}, given {method!r}")
    diffusion = _as_epsilon(epsilon)
    seeds, first = as_seeds(seed, x), as_int("first_sample", first_sample, least=0)
    widths = [_width(diffusion, t, following) for t, following in itertools.pairwise(levels)]
    noise, condition = run_noise(seeds, first, widths), dict(extra_args or {})
    drift_only, both = drift_of(model, condition), drift_and_score_of(model, condition)
    # a run must not end with an error that its first step could tell
    check: Any = getattr(model, "check_score_at", None)
    ends = [levels[0], levels[-1]] if method == "heun" else levels[:1]
    for t in ends:
        if check is not None and diffusion(t) > 0:
            check(t)

    def force(state: Tensor, t: float) -> Tensor:
        e = diffusion(t)
        if e == 0:
            return drift_only(state, t)
        drift, score = both(state, t)
        return weighted_sum([drift, score], [1.0, e if levels[-1] > levels[0] else -e])

    with progress_bar(len(levels) - 1, disable=disable) as bar:
        for i, (t, following) in enumerate(itertools.pairwise(levels)):
            h = following - t
            slope = force(x, t)
            if callback is not None:
                callback({"x": x, "i": i, "t": t, "drift": slope})
            if method == "euler":
                x = weighted_sum([x, slope], [1.0, h], noise, i)
            else:
                end = force(weighted_sum([x, slope], [1.0, h], noise, i), following)
                x = weighted_sum([x, slope, end], [1.0, 0.5 * h, 0.5 * h], noise, i)
            bar.update()
    return _checked_end(x)


def ode_step(method: str) -> Callable[[Drift, Tensor, Tensor, float, float], Tensor]:
    """Return a step (drift, x, b(x, t), t, next time) -> next x. Raises ValueError for an unknown method."""
    if method not in ODE_METHODS:
        raise ValueError(f"method must be one of {[*ODE_METHODS]}, given {method!r}")
    return ODE_METHODS[method]


def _euler(_: Drift, x: Tensor, slope: Tensor, t: float, following: float) -> Tensor:
    return weighted_sum([x, slope], [1.0, following - t])


def _heun(drift: Drift, x: Tensor, slope: Tensor, t: float, following: float) -> Tensor:
    h = following - t
    end = drift(weighted_sum([x, slope], [1.0, h]), following)
    return weighted_sum([x, slope, end], [1.0, 0.5 * h, 0.5 * h])


def _rk4(drift: Drift, x: Tensor, slope: Tensor, t: float, following: float) -> Tensor:
    h = following - t
    middle = t + 0.5 * h
    second = drift(weighted_sum([x, slope], [1.0, 0.5 * h]), middle)
    third = drift(weighted_sum([x, second], [1.0, 0.5 * h]), middle)
    end = drift(weighted_sum([x, third], [1.0, h]), following)
    return weighted_sum([x, slope, second, third, end], [1.0, h / 6, h / 3, h / 3, h / 6])


ODE_METHODS = {"euler": _euler, "heun": _heun, "rk4": _rk4}


def _as_epsilon(epsilon: Epsilon) -> Callable[[float], float]:
    """Return epsilon as a function of the time that checks its values."""
    if not callable(epsilon):
        number = as_float("epsilon", epsilon, least=0)
        return lambda _: number
    function = epsilon
    return lambda t: as_float(f"epsilon({t:g})", function(t), least=0)


def _width(diffusion: Callable[[float], float], t: float, following: float) -> float:
    """Return the standard deviation of the noise of a step, the root of 2 int epsilon dt by Simpson's rule."""
    mean = (diffusion(t) + 4 * diffusion(0.5 * (t + following)) + diffusion(following)) / 6
    return math.sqrt(2 * mean * abs(following - t))


def _checked_end(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        warnings.warn(
            f"{bad} of {len(x)} samples are not finite: the model returned NaN or infinity on the way, or the "
            "steps are too long for it",
            RuntimeWarning,
            stacklevel=4,
        )
    return x
