"""Noise levels from the times of a flow model, and back; and the time shift of Stable Diffusion 3.

A sampler of `edmfast.sampling` takes noise levels sigma = a(t)/b(t). Euler's method over them is Euler's method
over the times of the linear path, step by step, because both multiply the state and the denoised states by the
same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_numbers
from edmfast.interpolants.arguments import Times
from edmfast.interpolants.one_sided import check_direction, path_named


def sigmas_from_times(
    times: Times,
    *,
    path: str = "linear",
    direction: str = "noise_to_data",
    shift: float = 1.0,
    sigma_max: float | None = None,
) -> Tensor:
    """Return the noise levels sigma = a/b of the times of a flow model, for the argument sigmas of a sampler.

    With the time s = 1 - t of pure data 0 and pure noise 1, the shift moves it to shift s/(1 + (shift - 1) s). On
    the linear path that multiplies every level by shift.

    Source: Esser et al. 2024, arXiv 2403.03206, equation 23 (the shift).

    Args:
        times: [T + 1] within [0, 1], in the network's own direction and before the shift.
        path: "linear" or "trig"; see `from_velocity`.
        direction: "noise_to_data" where time 0 is noise, "data_to_noise" where time 1 is noise.
        shift: positive; above 1 it moves the times towards the noise. It is 3 for Stable Diffusion 3.
        sigma_max: the level that replaces higher ones, in the units of the data. The time of pure noise has an
            infinite level and needs it; the samples then change by about 1/sigma_max of their size.

    Returns:
        The levels [T + 1], on the device of the times, in float64 for float64 tensors and otherwise in torch's
            default dtype.

    Raises:
        TypeError: times or numbers of another type.
        ValueError: times outside of [0, 1] or not [T + 1], pure noise without a sigma_max, or a number that is not
            positive.
    """
    shift = as_float("shift", shift, positive=True)
    if sigma_max is not None:
        sigma_max = as_float("sigma_max", sigma_max, positive=True)
    at_time = path_named(path).at_time
    check_direction(direction)
    numbers = as_numbers("times", times)
    if numbers.dim() != 1 or not bool(((numbers >= 0) & (numbers <= 1)).all()):
        raise ValueError(
            f"times must be [T + 1] within [0, 1], given shape {[*numbers.shape]}"
            + (f" from {numbers.min():g} to {numbers.max():g}" if numbers.numel() else "")
        )
    s = numbers if direction == "data_to_noise" else 1 - numbers
    at = at_time(1 - shift * s / (1 + (shift - 1) * s))
    sigmas = at.a / at.b
    if sigma_max is not None:
        sigmas = sigmas.clamp(max=sigma_max)
    if not bool(sigmas.isfinite().all()):
        first = int((~sigmas.isfinite()).nonzero()[0])
        raise ValueError(
            f"times[{first}] = {float(numbers[first]):g} is pure noise, whose noise level is infinite: pass "
            "sigma_max, such as 1e4, which replaces higher levels"
        )
    return sigmas.to(_dtype_of(times))


def times_from_sigmas(
    sigmas: Times, *, path: str = "linear", direction: str = "noise_to_data"
) -> Tensor:
    """Return the times of a flow model at noise levels sigma, without a shift.

    Args:
        sigmas: numbers of any shape, at least 0, in the units of the data; infinity is pure noise.
        path: "linear" or "trig"; see `from_velocity`.
        direction: "noise_to_data" where time 0 is noise, "data_to_noise" where time 1 is noise.

    Returns:
        The times, within [0, 1], in the shape of sigmas, in float64 for float64 tensors and otherwise in torch's
            default dtype.

    Raises:
        TypeError: sigmas that are no real numbers.
        ValueError: negative levels, NaN, or an unknown path or direction.
    """
    at_level = path_named(path).at_level
    check_direction(direction)
    levels = as_numbers("sigmas", sigmas, finite=False)
    if bool((levels < 0).any()):
        raise ValueError(f"sigmas must be at least 0, given a smallest level of {levels.min():g}")
    t = at_level(levels).t
    return (t if direction == "noise_to_data" else 1 - t).to(_dtype_of(sigmas))


def _dtype_of(numbers: Times) -> torch.dtype:
    """Return float64 for a tensor of float64, and torch's default dtype for anything else."""
    double = isinstance(numbers, Tensor) and numbers.dtype == torch.float64
    return torch.float64 if double else torch.get_default_dtype()
