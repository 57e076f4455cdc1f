"""What the samplers share: the calls to the denoiser, Karras et al.'s churn, and the checks.

Conventions (k-diffusion): x is [B, *shape]; sigmas [T + 1] decrease strictly and may end in 0, or,
for the solvers of the ODE, rise strictly from a positive level, which turns a sample into noise;
`model(x, sigma [B], **extra_args)` returns the denoised x_0. The levels are read into Python floats
once, at the start, so that a step on an accelerator never waits for the host.

The samplers are built from single multiplications and additions per element: fused forms (addcmul,
lerp) may round differently in a vector loop and in its tail, and would make the bits of a sample
depend on the batch around it. What a step has just made it changes in place: on large states fresh
memory costs more than the arithmetic. Nothing that a model, a callback or a caller holds is changed.

A callback may change the tensors it is handed in place, with k-diffusion's effects. `sample_euler` and
`sample_heun` take the slope before the callback: a change of x moves the point that the step starts
from, a change of denoised does nothing. `sample_dpmpp_2m` and `sample_euler_ancestral` take it
afterwards: both changes act, in `sample_dpmpp_2m` also on the next step. The start that the caller
passed in stays as it is.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import carries_tangent
from edmfast._internal.numbers import as_float, check_level
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma

Model = Callable[..., Tensor]


class NonFiniteWarning(UserWarning):
    """Some samples of a plain sampler are NaN or infinite."""


Callback = Callable[[dict[str, Any]], Any]


def to_d(x: Tensor, sigma: float | Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability-flow ODE: (x - denoised) / sigma, [B, *shape].

    sigma is a float, [] or [B], positive. Karras et al. (2022), equation 1 with sigma(t) = t.
    """
    if isinstance(sigma, Tensor):
        return (x - denoised) / expand_sigma(sigma, x)
    return (x - denoised).div_(as_float("sigma", sigma, positive=True))


def get_ancestral_step(
    sigma_from: float | Tensor, sigma_to: float | Tensor, eta: float = 1.0
) -> tuple[Any, Any]:
    """Splits a step into a deterministic move to sigma_down and fresh noise sigma_up.

    sigma_up = min(sigma_to, eta sqrt(sigma_to^2 (sigma_from^2 - sigma_to^2) / sigma_from^2)),
    sigma_down^2 = sigma_to^2 - sigma_up^2; eta = 1 is ancestral sampling (Ho et al. 2020), eta = 0
    the ODE. Floats give floats, tensors give tensors.

    Returns:
        (sigma_down, sigma_up).

    Raises:
        ValueError: eta < 0; with eta > 0 also a rising level, for which there is no such split, and a
            sigma_from that is not positive. Levels in a traced tensor are not looked at.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    sigma_from, sigma_to = _as_level("sigma_from", sigma_from), _as_level("sigma_to", sigma_to)
    if not eta:
        return sigma_to, 0.0
    _check_falls(sigma_from, sigma_to)
    up = eta * sigma_to / sigma_from * (sigma_from**2 - sigma_to**2) ** 0.5
    up = torch.clamp(up, max=sigma_to) if isinstance(up, Tensor) else min(up, sigma_to)
    return (sigma_to**2 - up**2) ** 0.5, up


def towards(denoised: Tensor, x: Tensor, ratio: float) -> Tensor:
    """Moves x to denoised + ratio (x - denoised): an exact ODE step if the denoiser is constant."""
    return (x - denoised).mul_(ratio).add_(denoised)


def churn_factors(levels: list[float], churn: float, low: float, high: float) -> list[float]:
    """gamma of every step: the noise is raised to (1 + gamma) sigma first, where sigma is in range.

    Karras et al. (2022), algorithm 2: gamma = min(S_churn / T, sqrt(2) - 1) on [S_min, S_max].
    """
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    return [gamma if low <= sigma <= high else 0.0 for sigma in levels[:-1]]


def as_churn(
    kind: str, churn: float, low: float, high: float, noise: float
) -> tuple[float, float, float, float]:
    """Return the four settings of the churn as floats. kind: "s" of k-diffusion's names, "S" of EDM's."""
    low_name, high_name = ("s_tmin", "s_tmax") if kind == "s" else ("S_min", "S_max")
    return (
        as_float(f"{kind}_churn", churn, least=0, finite=False),
        as_float(low_name, low, least=0, finite=False),
        as_float(high_name, high, least=0, finite=False),
        as_float(f"{kind}_noise", noise, least=0),
    )


def bind(model: Model, extra_args: dict[str, Any] | None) -> Callable[[Tensor, float], Tensor]:
    """`denoise(x, sigma)` with sigma a Python float: calls the model once and checks its answer."""
    condition = dict(extra_args or {})

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return call_denoiser(model, x, x.new_full((x.shape[0],), sigma), **condition)

    return denoise


def own_start(x: Tensor, callback: Callback | None) -> Tensor:
    """Return the state of the first step: a copy where a callback could change the caller's tensor."""
    return x if callback is None else x.clone()


def checked_end(x: Tensor) -> Tensor:
    """Return the result of a sampler, after a warning where it is not finite: looked at once, at the end."""
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        warnings.warn(
            f"{bad} of {len(x)} samples are not finite: the model returned NaN or infinity on the way",
            NonFiniteWarning,
            stacklevel=4,
        )
    return x


def report(
    callback: Callback | None, x: Tensor, i: int, sigma: Tensor, sigma_hat: Tensor, denoised: Tensor
) -> None:
    """Hands k-diffusion's dict to the callback, if there is one."""
    if callback is not None:
        levels = {"sigma": sigma.clone(), "sigma_hat": sigma_hat.clone()}
        callback({"x": x, "i": i, **levels, "denoised": denoised})


def check_start(x: Tensor, sigmas: Tensor, *, rising: bool = True) -> list[float]:
    """Checks the start of a sampler and returns the levels as Python floats.

    rising: whether the sampler takes levels that increase strictly.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor.
        ValueError: x is not [B, *shape] or not finite; sigmas is not [T + 1] with T >= 1, not
            finite, negative, beyond what x's dtype can square, or not strictly decreasing nor, where
            the sampler takes that, strictly increasing from a positive level.
    """
    check_state(x, "x")
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point():
        raise TypeError(f"sigmas must be a floating-point tensor [T + 1], got {_kind(sigmas)}")
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas must be [T + 1] with T >= 1, got shape {tuple(sigmas.shape)}")
    if carries_tangent(sigmas):
        raise RuntimeError(
            "samplers have no derivative by sigmas, which carry a tangent: detach them"
        )
    levels: list[float] = sigmas.tolist()
    for i, sigma in enumerate(levels):
        if not math.isfinite(sigma) or sigma < 0:
            raise ValueError(f"sigmas must be finite and >= 0, got sigmas[{i}] = {sigma}")
        if sigma > 0:
            check_level(f"sigmas[{i}]", sigma, x.dtype)
    _check_order(levels, rising)
    return levels


def _check_order(levels: list[float], rising: bool) -> None:
    upwards = rising and levels[1] > levels[0]
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        if following > sigma if upwards else following < sigma:
            continue
        accepted = "decrease strictly (only the last may be 0)"
        if rising:
            accepted += " or increase strictly from a positive level"
        raise ValueError(
            f"sigmas must {accepted}, got sigmas[{i}] = {sigma}, sigmas[{i + 1}] = {following}"
        )
    if upwards and levels[0] == 0:
        raise ValueError(
            "sigmas that increase must start above 0, because the slope (x - D)/sigma divides by the "
            f"level: replace sigmas[0] = 0 by a small level, below sigmas[1] = {levels[1]}"
        )


def _as_level(name: str, sigma: float | Tensor) -> float | Tensor:
    if isinstance(sigma, Tensor):
        return sigma
    level = as_float(name, sigma, least=0)
    if level > 0:
        check_level(name, level)
    return level


def _check_falls(sigma_from: float | Tensor, sigma_to: float | Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    above, below = torch.as_tensor(sigma_from), torch.as_tensor(sigma_to)
    if not bool(((above >= below.to(above)) & (above > 0)).all()):
        raise ValueError(
            "an ancestral step goes down from a positive level: sigma_to must not exceed sigma_from, "
            f"got sigma_from = {sigma_from}, sigma_to = {sigma_to} (eta = 0 takes both directions)"
        )


def check_state(x: Tensor, name: str) -> None:
    """Raises TypeError or ValueError unless x is a finite floating-point tensor [B, *shape]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor [B, *shape], got {_kind(x)}")
    if x.ndim < 2:
        raise ValueError(f"{name} must be [B, *shape] with a batch axis, got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
