"""The adaptive DPM-Solver of order 12 or 23 with steps of its own for each sample, or with common steps.

In lambda = -ln sigma, a step of length h predicts epsilon or the denoised states in up to three places. With
em = expm1 and P_j the prediction after the share j/order of the step,

    epsilon    x - sigma' em(h) P_0 - weight (P_j - P_0)
    denoised   (sigma' / sigma) x - em(-h) P_0 + weight (P_j - P_0)

The pair of orders is 1 and 2, or 2 and 3, from the same evaluations.
Sources: Lu et al. 2022, arXiv 2206.00927, algorithm 3, and arXiv 2211.01095 (denoised).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.derivatives import without_gradients
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_bool, as_float, as_int
from edmfast._internal.progress import progress_bar
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser
from edmfast.sampling.adaptive.step_size import StepSizes, error_of
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.checks import check_state, checked_end
from edmfast.sampling.solvers.shared.fields import check_choice

_SMALLEST = 1e-6
"""A run fails where a step in lambda would have to be shorter, because it would take millions of them."""


@without_gradients
def sample_dpm_solver_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    order: int = 3,
    prediction: Literal["epsilon", "denoised"] = "epsilon",
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    theta: float = 0.9,
    units: Literal["vp", "ve"] = "vp",
    per_sample: bool = True,
    denoise_to_zero: bool = False,
    return_info: bool = False,
) -> Any:
    """Sample with DPM-Solver-12 or -23, whose steps are as long as the tolerances allow.

    Every sample has steps of its own, so that its result does not depend on its batch mates, and it waits at the
    last level until all have arrived. `sample_dpm_adaptive` is the same method with k-diffusion's error and
    controller, for a whole batch. Sources: Lu et al. 2022, arXiv 2206.00927, algorithm 3; arXiv 2211.01095.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0, with a level for each sample.
        x: the noisy states [B, *shape], at the noise level sigma_max.
        sigma_min: the noise level of the result, in units of x, positive and below sigma_max.
        sigma_max: the noise level of x.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called after every tried step with a dictionary of x, i, sigma (before the step) and denoised,
            and error, h (the next step) and accepted, [B] each.
        disable: True shows no progress. Other values show how much of the way in ln sigma is done, in percent.
        order: 2 for orders 1 and 2, 3 for orders 2 and 3. It is also the number of model calls of a step, of which
            a repeated step saves the first where no sample has moved.
        prediction: "epsilon" for DPM-Solver and "denoised" for DPM-Solver++.
        rtol, atol: the relative and the absolute tolerance, not both 0.
        h_init: the length of the first step in ln sigma.
        theta: the safety factor of the next step, above 0 and at most 1.
        units: in what atol and the states are compared: "vp" takes x / sqrt(1 + sigma²), the states of the
            variance-preserving process as in the source, and "ve" takes x.
        per_sample: False takes the steps that the sample with the largest error needs for all, as the source does.
        denoise_to_zero: end with the denoised states at sigma_min, by one more model call.
        return_info: return a pair of the states and their counts.

    Returns:
        The states [B, *shape] at the noise level sigma_min, or denoised, without gradients. With return_info a
        pair of them and a dictionary: steps (tried) and nfe (model calls) of the batch, and n_accept and n_reject,
        int64 [B].

    Raises:
        TypeError: x is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x of another shape or not finite, numbers out of range, a model that returns another shape or
            NaN, or tolerances that need steps below 1e-6.
    """
    check_state(x, "x")
    start, end = _range(x, sigma_min, sigma_max)
    order = as_int("order", order, least=2, most=3)
    check_choice("prediction", prediction, ("epsilon", "denoised"))
    check_choice("units", units, ("vp", "ve"))
    rtol, atol = as_float("rtol", rtol, least=0), as_float("atol", atol, least=0)
    if rtol == atol == 0:
        raise ValueError("rtol and atol must not both be 0, because no step has an error of 0")
    h_init = as_float("h_init", h_init, positive=True)
    theta = as_float("theta", theta, positive=True, most=1)
    shared = not as_bool("per_sample", per_sample)
    denoise_to_zero = as_bool("denoise_to_zero", denoise_to_zero)
    return_info = as_bool("return_info", return_info)
    sizes = StepSizes(start, end, len(x), h_init, order, theta, x.device, shared=shared)
    condition = dict(extra_args or {})
    calls = 0

    def predict(states: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the denoised states, the prediction) at a lambda [B]."""
        nonlocal calls
        calls += 1
        sigma = place.neg().exp().to(states.dtype)
        denoised = call_denoiser(model, states, sigma, **condition)
        if prediction == "denoised":
            return denoised, denoised
        return denoised, (states - denoised) / unsqueeze_like(sigma, states)

    # Without samples there is nothing to step, and no error to compare.
    tried, moving, previous, first = 0, len(x) > 0, x, None
    if callback is not None:
        x = x.clone()
    with progress_bar(100, unit="%", disable=disable) as bar:
        while moving:
            place, target = sizes.place, sizes.target()
            denoised, value = first or predict(x, place)
            step = _Step(place, torch.where(sizes.active, target, place + sizes.h), prediction)
            low, high = _pair(step, x, value, order, lambda y, at: predict(y, at)[1])
            scale = (
                (_unit(place + step.h), _unit(place))
                if units == "vp"
                else (torch.ones_like(place),) * 2
            )
            error = error_of(low, high, previous, rtol, atol, scale)
            # What happens to samples that have arrived is not an error.
            bad = (~error.isfinite() & sizes.active).any()
            accept = sizes.decide(error)
            keep = unsqueeze_like(accept, x)
            x, previous = torch.where(keep, high, x), torch.where(keep, low, previous)
            # These are the only reads of a step, in one transfer.
            share, least, moved, moving, broken = _read(sizes, accept, bad, start)
            if broken:
                raise ValueError(
                    f"the model returned NaN or infinity after {tried} steps, so that the error of the next one "
                    "is unknown"
                )
            if least < _SMALLEST:
                raise ValueError(
                    f"atol = {atol:g} and rtol = {rtol:g} are too small for this model: after {tried} steps they "
                    f"ask for one of {least:.1g} in ln sigma"
                )
            first = None if moved else (denoised, value)
            bar.update(int(100 * share) - bar.n)
            if callback is not None:
                seen = {"x": x, "i": tried, "sigma": place.neg().exp(), "denoised": denoised}
                callback({**seen, "error": error, "h": sizes.h.clone(), "accepted": accept})
                first = None
            tried += 1
    if denoise_to_zero:
        x = predict(x, torch.full_like(sizes.place, end))[0]
    result = checked_end(x)
    if not return_info:
        return result
    counts = {"n_accept": sizes.accepted, "n_reject": sizes.rejected}
    return result, {"steps": tried, "nfe": calls, **counts}


class _Step:
    """The coefficients of a step of every sample, from lambda [B] to lambda [B], in float64."""

    def __init__(self, place: Tensor, target: Tensor, prediction: str) -> None:
        self.place, self.h = place, target - place
        self.by_noise = prediction == "epsilon"

    def states(
        self, x: Tensor, first: Tensor, share: float = 1.0, *terms: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the states after a share of the step. terms: (prediction - first prediction, weight [B])."""
        k = share * self.h
        if self.by_noise:
            result = x + first * self._like(x, -self._level(share) * torch.expm1(k))
        else:
            decay = torch.expm1(-k)
            result = x * self._like(x, 1 + decay) + first * self._like(x, -decay)
        for difference, weight in terms:
            result = result + difference * self._like(x, weight)
        return result

    def linear(self, share: float) -> Tensor:
        """Return the weight of a difference over `share`, by which the slope in its place counts for the step."""
        factor = -self._level(1.0) * torch.expm1(self.h) if self.by_noise else -torch.expm1(-self.h)
        return factor / (2 * share)

    def quadratic(self, share: float, over: float) -> Tensor:
        """Return the weight of a difference over `over` in the states after a share of the step, by phi_2."""
        k = share * self.h
        if self.by_noise:
            return -self._level(share) * (torch.expm1(k) / k - 1) * share / over
        return (torch.expm1(-k) / k + 1) * share / over

    def at(self, share: float) -> Tensor:
        """Return lambda [B] after a share of the step."""
        return self.place + share * self.h

    def _level(self, share: float) -> Tensor:
        return self.at(share).neg().exp()

    @staticmethod
    def _like(x: Tensor, numbers: Tensor) -> Tensor:
        return unsqueeze_like(numbers.to(x.dtype), x)


def _pair(step: _Step, x: Tensor, first: Tensor, order: int, predict: Any) -> tuple[Tensor, Tensor]:
    """Return the states after a step of the lower and of the higher order."""
    if order == 2:
        middle = predict(step.states(x, first, 0.5), step.at(0.5)) - first
        return step.states(x, first), step.states(x, first, 1.0, (middle, step.linear(0.5)))
    near, far = 1 / 3, 2 / 3
    second = predict(step.states(x, first, near), step.at(near)) - first
    stage = step.states(x, first, far, (second, step.quadratic(far, near)))
    third = predict(stage, step.at(far)) - first
    low = step.states(x, first, 1.0, (second, step.linear(near)))
    return low, step.states(x, first, 1.0, (third, step.quadratic(1.0, far)))


def _unit(place: Tensor) -> Tensor:
    """Return 1 / sqrt(1 + sigma²), the scale of the variance-preserving states."""
    return (1 + (-2 * place).exp()).rsqrt()


def _read(
    sizes: StepSizes, accept: Tensor, bad: Tensor, start: float
) -> tuple[float, float, bool, bool, bool]:
    """Return (the share of the way that is done, the shortest step, some moved, some move on, bad)."""
    numbers = torch.stack(
        [
            (sizes.place.min() - start) / (sizes.end - start),
            sizes.shortest,
            accept.any().double(),
            sizes.active.any().double(),
            bad.double(),
        ]
    )
    share, least, moved, moving, broken = numbers.tolist()
    return share, least, bool(moved), bool(moving), bool(broken)


def _range(x: Tensor, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Return (-ln sigma_max, -ln sigma_min) of valid levels."""
    sigma_min = as_float("sigma_min", sigma_min, positive=True)
    sigma_max = as_float("sigma_max", sigma_max, positive=True)
    check_level("sigma_min", sigma_min, x.dtype)
    check_level("sigma_max", sigma_max, x.dtype)
    if not sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min must be below sigma_max, got sigma_min = {sigma_min} and sigma_max = {sigma_max}"
        )
    return -math.log(sigma_max), -math.log(sigma_min)
