"""`from_velocity` and `to_velocity`: velocity networks as denoisers, and denoisers or energies as velocities."""

from __future__ import annotations

from typing import Any

from edmfast._internal.numbers import as_float
from edmfast.interpolants.denoiser_velocity import DenoiserVelocity
from edmfast.interpolants.one_sided import convention_of
from edmfast.interpolants.velocity_denoiser import Velocity, VelocityDenoiser
from edmfast.models.protocols import Denoiser, Target


def from_velocity(
    velocity: Velocity,
    *,
    path: str = "linear",
    direction: str = "noise_to_data",
    time_scale: float = 1.0,
) -> Denoiser:
    """Return a denoiser D(x; sigma) made of a velocity network, for every sampler, target and diagnostic.

    The network is called as velocity(x_t [B, *shape], time [B], **conditions) and returns dx_t/dt in its own time,
    like x_t. One call of the denoiser is one call of the network. A velocity that `to_velocity` made in the same
    convention is taken apart again, so that the round trip returns the denoiser itself.

    Sources: Liu et al. 2022, arXiv 2209.03003 (rectified flow); Albergo, Boffi and Vanden-Eijnden 2023,
    arXiv 2303.08797 (one-sided interpolants); Esser et al. 2024, arXiv 2403.03206 (Stable Diffusion 3).

    Args:
        velocity: the network, a module or a function.
        path: "linear" for x_t = (1 - t) noise + t data, or "trig" for cos(pi t/2) noise + sin(pi t/2) data.
        direction: "noise_to_data" where time 0 is noise and v = data - noise on the linear path; "data_to_noise"
            where time 1 is noise and v = noise - data, as for Stable Diffusion 3 and Flux.
        time_scale: the factor on the time that the network receives, such as 1000.

    Returns:
        A module (x [B, *shape], sigma, **conditions) -> x0 like x, with sigma a float, [] or [B] in the units of
        the data.

    Raises:
        TypeError: a velocity that cannot be called, or a time_scale that is no number.
        ValueError: an unknown path or direction, or a time_scale that is not positive.
    """
    convention = convention_of(path, direction, time_scale)
    _check_callable("velocity", velocity, "(x, time)")
    if isinstance(velocity, DenoiserVelocity) and velocity.inverts(convention):
        denoiser: Denoiser = velocity.model
        return denoiser
    return VelocityDenoiser(velocity, convention)


def to_velocity(
    denoiser: Denoiser | Target,
    *,
    path: str = "linear",
    direction: str = "noise_to_data",
    time_scale: float = 1.0,
    sigma_max: float | None = None,
) -> Velocity:
    """Return the velocity v(x_t, time) of a one-sided interpolant, made of a denoiser or an energy.

    One call of the velocity is one call of the model. An energy's score serves where there is one, which keeps
    digits near the data. A denoiser that `from_velocity` made in the same convention is taken apart again, so that
    the round trip returns the network itself.

    Sources: Liu et al. 2022, arXiv 2209.03003; Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        denoiser: model(x [B, *shape], sigma [B], **conditions) -> x0 like x, or a target with energy_and_score.
        path: "linear" for x_t = (1 - t) noise + t data, or "trig" for cos(pi t/2) noise + sin(pi t/2) data.
        direction: "noise_to_data" or "data_to_noise"; see `from_velocity`.
        time_scale: the largest time, such as 1000.
        sigma_max: the largest noise level of the denoiser, in the units of the data. Where the noise level a/b is
            higher, as at pure noise, the denoiser is asked at sigma_max for the same noise. Without it the time of
            pure noise is refused.

    Returns:
        A module (x_t [B, *shape], time, **conditions) -> the velocity like x_t, with time a float, [] or [B].

    Raises:
        TypeError: a denoiser that is neither callable nor an energy, or a number of another type.
        ValueError: an unknown path or direction, or a number that is not positive.
    """
    convention = convention_of(path, direction, time_scale)
    if sigma_max is not None:
        sigma_max = as_float("sigma_max", sigma_max, positive=True)
    if isinstance(denoiser, type) or not hasattr(denoiser, "energy_and_score"):
        _check_callable("denoiser", denoiser, "(x, sigma)")
    if isinstance(denoiser, VelocityDenoiser) and denoiser.convention == convention:
        return denoiser.model
    return DenoiserVelocity(denoiser, convention, sigma_max)


def _check_callable(name: str, model: Any, arguments: str) -> None:
    if not callable(model) or isinstance(model, type):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"{name} must be callable as {name}{arguments}, given {kind}")
