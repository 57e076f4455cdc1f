"""The timesteps and noise levels of a run, equal to those of diffusers bit by bit.

`Levels` holds what a scheduler shows (`timesteps`, `sigmas`) and what the solver needs: the level of every model
call and the levels of the solver's steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast.diffusers.levels import flow_levels, spacing
from edmfast.diffusers.levels.curves import (
    Array,
    curve_of,
    karras,
    on_curve,
    timesteps_of_sigmas,
)

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Levels:
    """The grid of a run of N model calls in T steps.

    timesteps: [N], what the model is given, on the CPU. sigmas: [N + 1] or longer, as diffusers lists them.
    calls: the noise levels of the N model calls. steps: the T + 1 noise levels of the solver. All are in the
    scheduler's own unit of sigma.
    """

    timesteps: Tensor
    sigmas: Tensor
    calls: tuple[float, ...]
    steps: tuple[float, ...]


@dataclass(frozen=True)
class Request:
    """The arguments of `set_timesteps`: a number of steps, timesteps, or noise levels, and a shift mu."""

    count: int | None = None
    timesteps: Any = None
    sigmas: Any = None
    mu: float | None = None


def single(timesteps: Tensor, sigmas: Tensor) -> Levels:
    """Return levels with one model call in every step."""
    values = tuple(sigmas.tolist())
    return Levels(timesteps, sigmas, values[: len(timesteps)], values)


def last_sigma(settings: Settings, smallest: Any) -> Any:
    """Return the level at which a run ends."""
    kind = settings.get("final_sigmas_type", "zero")
    if kind not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type={kind!r} is not known: it is zero or sigma_min")
    return smallest if kind == "sigma_min" else 0


def _float32(values: Array, last: Any) -> Tensor:
    return torch.from_numpy(np.concatenate([values, [last]]).astype(np.float32))


def euler(settings: Settings, training: Array, request: Request) -> Levels:
    """Return the levels of `EulerDiscreteScheduler`."""
    log_sigmas = np.log(training)
    continuous = (
        settings["timestep_type"] == "continuous" and settings["prediction_type"] == "v_prediction"
    )
    if continuous and request.timesteps is not None:
        raise ValueError(
            "timesteps do not go with timestep_type='continuous' and prediction_type='v_prediction'"
        )
    if request.sigmas is not None:
        levels = np.array(request.sigmas).astype(np.float32)
        timesteps = timesteps_of_sigmas(levels[:-1], log_sigmas)
        sigmas = torch.from_numpy(levels)
    else:
        timesteps = _given_or_spaced(settings, request)
        levels, timesteps = _levels_at(settings, training, timesteps, len(timesteps))
        sigmas = _float32(levels, last_sigma(settings, training[0]))
    shown = torch.from_numpy(timesteps.astype(np.float32))
    if continuous:
        shown = torch.Tensor([0.25 * sigma.log() for sigma in sigmas[:-1]])
    return single(shown, sigmas)


def ancestral(settings: Settings, training: Array, request: Request) -> Levels:
    """Return the levels of `EulerAncestralDiscreteScheduler` and of `LMSDiscreteScheduler`."""
    timesteps = _given_or_spaced(settings, request)
    levels, timesteps = _levels_at(settings, training, timesteps, len(timesteps))
    return single(torch.from_numpy(timesteps).float(), _float32(levels, 0.0))


def heun(settings: Settings, training: Array, request: Request) -> Levels:
    """Return the levels of `HeunDiscreteScheduler`: two calls a step, at both its ends."""
    timesteps = _given_or_spaced(settings, request)
    levels, timesteps = _levels_at(settings, training, timesteps, len(timesteps))
    grid = _float32(levels, 0.0)
    sigmas = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2), grid[-1:]])
    moments = torch.from_numpy(timesteps)
    moments = torch.cat([moments[:1], moments[1:].repeat_interleave(2)]).float()
    return Levels(moments, sigmas, tuple(sigmas[:-1].tolist()), tuple(grid.tolist()))


def kdpm2(settings: Settings, training: Array, request: Request, ancestral: bool) -> Levels:
    """Return the levels of `KDPM2DiscreteScheduler`, or of its ancestral form: two calls a step.

    The second call is at the geometric mean of the step's ends, or of its start and the level to which the
    ancestral step moves without noise.
    """
    timesteps = _given_or_spaced(settings, request)
    levels, timesteps = _levels_at(settings, training, timesteps, len(timesteps))
    if settings["use_karras_sigmas"]:
        timesteps = timesteps.round()
    grid = _float32(levels, 0.0)
    start, end = grid[:-1], grid[1:]
    if ancestral:
        up = (end**2 * (start**2 - end**2) / start**2) ** 0.5
        down = (end**2 - up**2) ** 0.5
        # Rounding makes the difference negative where the levels fall steeply. Its root is end² / start.
        down = torch.where(down.isnan(), end**2 / start, down)
        between = start.log().lerp(down.log(), 0.5).exp()[:-1]
    else:
        between = end.log().lerp(start.log(), 0.5).exp()[:-1]
    # A step to 0 has one call.
    middle = timesteps_of_sigmas(between.numpy(), np.log(training), np.float32)
    middle = middle.astype(timesteps.dtype)
    pairs = np.stack([middle, timesteps[1:]], axis=1).flatten()
    # The timesteps are those of levels in float32. The solver has them in float64.
    ends = grid.double()
    inner = ends[1:-1] if ancestral else (ends[:-2] * ends[1:-1]).sqrt()
    calls = torch.stack([inner, ends[1:-1]], dim=1).flatten()
    return Levels(
        torch.from_numpy(np.concatenate([timesteps[:1], pairs])),
        torch.cat([grid[:1], grid[1:].repeat_interleave(2), grid[-1:]]),
        (grid[0].item(), *calls.tolist()),
        tuple(grid.tolist()),
    )


def _given_or_spaced(settings: Settings, request: Request) -> Array:
    if request.timesteps is not None:
        return np.array(request.timesteps).astype(np.float32)
    assert request.count is not None
    train, offset = settings["num_train_timesteps"], settings["steps_offset"]
    return spacing.to_last_timestep(settings["timestep_spacing"], request.count, train, offset)


def _levels_at(
    settings: Settings, training: Array, timesteps: Array, count: int
) -> tuple[Array, Array]:
    """Return (sigmas, timesteps) after a curve of the settings, if there is one."""
    sigmas: Array = np.interp(timesteps, np.arange(0, len(training)), training)
    kind = settings.get("interpolation_type", "linear")
    if kind == "log_linear":
        ends = np.log(training[-1]), np.log(training[0])
        sigmas = torch.linspace(*ends, count + 1).exp().numpy()
    elif kind != "linear":
        raise ValueError(f"interpolation_type={kind!r} is not known: it is linear or log_linear")
    curve = curve_of(settings)
    if curve is None:
        return sigmas, timesteps
    sigmas = on_curve(curve, sigmas, count, settings)
    return sigmas, timesteps_of_sigmas(sigmas, np.log(training))


def edm(settings: Settings, request: Request, solver: str) -> Levels:
    """Return the levels of `EDMEulerScheduler` or, for solver "dpm", `EDMDPMSolverMultistepScheduler`."""
    low, high, kind = (settings[name] for name in ("sigma_min", "sigma_max", "sigma_schedule"))
    dtype = torch.float64 if solver == "euler" else torch.float32
    if request.sigmas is not None:
        ramp = torch.as_tensor(request.sigmas).to(dtype)
    else:
        assert request.count is not None
        ramp = torch.linspace(0, 1, request.count, dtype=dtype)
    if kind == "karras":
        inverse = 1 / settings["rho"]
        ends = low**inverse, high**inverse
        sigmas = (ends[1] + ramp * (ends[0] - ends[1])) ** settings["rho"]
    elif kind == "exponential":
        sigmas = torch.linspace(np.log(low).item(), np.log(high).item(), len(ramp)).exp().flip(0)
    else:
        raise ValueError(f"sigma_schedule={kind!r} is not known: it is karras or exponential")
    sigmas = sigmas.float()
    smallest = sigmas[-1].item() if solver == "euler" else low
    last = torch.tensor([last_sigma(settings, smallest)], dtype=torch.float32)
    return single(0.25 * torch.log(sigmas), torch.cat([sigmas, last]))


def multistep(settings: Settings, training: Array, request: Request, lambda_t: Tensor) -> Levels:
    """Return the levels of `DPMSolverMultistepScheduler`, `DPMSolverSinglestepScheduler` and DEIS."""
    train, count = settings["num_train_timesteps"], request.count
    if request.timesteps is not None:
        timesteps = np.array(request.timesteps).astype(np.int64)
    else:
        assert count is not None
        clip = settings.get("lambda_min_clipped", -float("inf"))
        top = train - int(torch.searchsorted(torch.flip(lambda_t, [0]), clip))
        kind, offset = settings.get("timestep_spacing", "linspace"), settings.get("steps_offset", 0)
        timesteps = spacing.to_data(kind, count, train, offset, top)
    count = len(timesteps)
    falling, curve = np.flip(training).copy(), curve_of(settings)
    rounds = settings["beta_schedule"] != "squaredcos_cap_v2" or "use_lu_lambdas" not in settings
    if settings.get("use_lu_lambdas") and curve != "use_karras_sigmas":
        # Lu et al. 2022: uniform in lambda, the half log-SNR, which is -ln sigma.
        logs = np.log(training)
        sigmas = np.exp(karras(logs[-1].item(), logs[0].item(), count, rho=1.0))
        curve = "use_lu_lambdas"
    elif curve is not None:
        sigmas = on_curve(curve, falling, count, settings)
    elif settings["use_flow_sigmas"]:
        shift = settings["flow_shift"] if request.mu is None else np.exp(request.mu)
        sigmas, timesteps = flow_levels.falling(count, train, shift)
    else:
        sigmas = np.interp(timesteps, np.arange(0, len(training)), training)
    if curve is not None:
        timesteps = timesteps_of_sigmas(sigmas, np.log(training))
        if curve in ("use_karras_sigmas", "use_lu_lambdas") and rounds:
            timesteps = timesteps.round()
    deis = "final_sigmas_type" not in settings
    curved = curve is not None or settings["use_flow_sigmas"]
    last = sigmas[-1] if deis and curved else training[0]
    if not deis:
        last = last_sigma(settings, training[0])
    return single(torch.from_numpy(timesteps).to(torch.int64), _float32(sigmas, last))


def unipc(settings: Settings, training: Array, request: Request) -> Levels:
    """Return the levels of `UniPCMultistepScheduler`."""
    train, count = settings["num_train_timesteps"], request.count
    flow, curve = settings["use_flow_sigmas"], curve_of(settings)
    if request.sigmas is not None:
        count = len(request.sigmas)
    assert count is not None
    kind, offset = settings["timestep_spacing"], settings["steps_offset"]
    timesteps = spacing.to_data(kind, count, train, offset)
    smallest: Any = None
    if curve is not None:
        given = training if request.sigmas is None else np.array(request.sigmas)
        sigmas = on_curve(curve, np.flip(given).copy(), count, settings)
        if flow and curve == "use_karras_sigmas":
            sigmas = sigmas / (sigmas + 1)
            timesteps = sigmas * train
        else:
            timesteps = timesteps_of_sigmas(sigmas, np.log(given))
            timesteps = timesteps.round() if curve == "use_karras_sigmas" else timesteps
    elif flow:
        sigmas = flow_levels.unipc(settings, count, request.sigmas, request.mu)
        timesteps = sigmas * train
    else:
        sigmas = np.interp(timesteps, np.arange(0, len(training)), training)
        smallest = training[0]
    last = last_sigma(settings, sigmas[-1] if smallest is None else smallest)
    return single(torch.from_numpy(timesteps).to(torch.int64), _float32(sigmas, last))


def whole_timesteps(settings: Settings, count: int) -> Tensor:
    """Return the timesteps of `DDIMScheduler`."""
    train, offset = settings["num_train_timesteps"], settings["steps_offset"]
    if count > train:
        raise ValueError(
            f"num_inference_steps={count} exceeds num_train_timesteps={train} of the configuration"
        )
    timesteps = spacing.whole(settings["timestep_spacing"], count, train, offset)
    return torch.from_numpy(timesteps.copy())


def angles(betas: Sequence[float] | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (timesteps, sigmas, alphas) of `IPNDMScheduler`, whose sigma² + alpha² = 1."""
    steps = torch.linspace(1, 0, count + 1)
    sigmas = torch.sin(steps * torch.pi / 2) ** 2
    if betas is not None:
        sigmas = torch.tensor(betas, dtype=torch.float32)
    alphas = (1.0 - sigmas**2) ** 0.5
    return (torch.atan2(sigmas, alphas) / torch.pi * 2)[:-1], sigmas, alphas
