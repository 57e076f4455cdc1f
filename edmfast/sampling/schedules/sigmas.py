"""Noise schedules under k-diffusion's names: decreasing noise levels with a final 0.

Every function returns a tensor [n + 1] of torch's default dtype: n levels from the largest to the smallest, then
0. The levels are computed in float64 and rounded once. With a ramp r_i = i / (n - 1) they are

- Karras:           (sigma_max^(1/rho) + r_i (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
                    (Karras et al. 2022, arXiv 2206.00364, equation 5)
- exponential:      evenly spaced in ln sigma
- polyexponential:  ln sigma = ln sigma_min + (1 - r_i)^rho ln(sigma_max / sigma_min)
- variance preserving: sqrt(exp(beta_d t² / 2 + beta_min t) - 1), with t evenly spaced from 1 to eps_s
                    (Song et al. 2021, arXiv 2011.13456, in the variables of Karras et al. 2022)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int


def karras_levels(
    n: int, sigma_min: float, sigma_max: float, rho: float, name: str = "n"
) -> Tensor:
    """Return the positive levels of the Karras schedule, float64 [n], largest first.

    name: the name of n in error messages.
    """
    n, sigma_min, sigma_max = _as_range(n, sigma_min, sigma_max, name)
    rho = as_float("rho", rho, positive=True)
    try:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        # Infinite ends fail the check below, which raises the same error as any other bad rho.
        high = low = math.inf
    levels: Tensor = (high + _ramp(n) * (low - high)) ** rho
    # For a rho near 0 or far above the usual 7 the powers overflow, or rounding destroys the levels.
    if not math.isclose(float(levels[0]), sigma_max, rel_tol=1e-6):
        raise ValueError(f"rho must leave sigma_max**(1/rho) a number of enough digits, got {rho}")
    return levels


def get_sigmas_karras(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the schedule of Karras et al.

    With r_i = i / (n - 1), sigma_i = (sigma_max^(1/rho) + r_i (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.
    Source: Karras et al. 2022, arXiv 2206.00364, equation 5.

    Args:
        n: the number of positive levels, at least 1.
        sigma_min: the smallest positive level, in units of the data.
        sigma_max: the largest level, at least sigma_min.
        rho: positive; the larger it is, the more levels are small.
        device: the device of the result.

    Returns:
        The levels [n + 1] in torch's default dtype, decreasing, of which the last is 0.

    Raises:
        TypeError: an argument that is no number.
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, rho <= 0, NaN, or levels that do not fit torch's
            default dtype.
    """
    return finished(karras_levels(n, sigma_min, sigma_max, rho), device)


def get_sigmas_exponential(
    n: int, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Return levels evenly spaced in ln sigma.

    Source: the name and the formula are k-diffusion's.

    Args:
        n: the number of positive levels, at least 1.
        sigma_min: the smallest positive level, in units of the data.
        sigma_max: the largest level, at least sigma_min.
        device: the device of the result.

    Returns:
        The levels [n + 1] in torch's default dtype, decreasing, of which the last is 0.

    Raises:
        TypeError: an argument that is no number.
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, NaN, or levels that do not fit torch's default
            dtype.
    """
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


def get_sigmas_polyexponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return levels polynomial in ln sigma; rho = 1 gives the exponential schedule.

    With r_i = i / (n - 1), ln sigma_i = ln sigma_min + (1 - r_i)^rho ln(sigma_max / sigma_min).
    Source: the name and the formula are k-diffusion's.

    Args:
        n: the number of positive levels, at least 1.
        sigma_min: the smallest positive level, in units of the data.
        sigma_max: the largest level, at least sigma_min.
        rho: positive; the larger it is, the more levels are small.
        device: the device of the result.

    Returns:
        The levels [n + 1] in torch's default dtype, decreasing, of which the last is 0.

    Raises:
        TypeError: an argument that is no number.
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, rho <= 0, NaN, or levels that do not fit torch's
            default dtype.
    """
    n, sigma_min, sigma_max = _as_range(n, sigma_min, sigma_max)
    rho = as_float("rho", rho, positive=True)
    # The quotient sigma_max / sigma_min may overflow.
    span = math.log(sigma_max) - math.log(sigma_min)
    return finished(torch.exp(math.log(sigma_min) + (1 - _ramp(n)) ** rho * span), device)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the levels of the variance-preserving SDE.

    sigma(t) = sqrt(exp(beta_d t² / 2 + beta_min t) - 1), with t evenly spaced from 1 to eps_s.
    Source: Song et al. 2021, arXiv 2011.13456, in the variables of Karras et al. 2022, arXiv 2206.00364.

    Args:
        n: the number of positive levels, at least 1.
        beta_d: the slope of the SDE's rate beta(t), positive.
        beta_min: the rate at t = 0, positive.
        eps_s: the smallest time, in (0, 1].
        device: the device of the result.

    Returns:
        The levels [n + 1] in torch's default dtype, decreasing, of which the last is 0.

    Raises:
        TypeError: an argument that is no number.
        ValueError: n < 1, a coefficient that is not positive, eps_s > 1, or levels that do not fit torch's
            default dtype.
    """
    n = as_int("n", n, least=1)
    beta_d = as_float("beta_d", beta_d, positive=True)
    beta_min = as_float("beta_min", beta_min, positive=True)
    eps_s = as_float("eps_s", eps_s, positive=True)
    if eps_s > 1:
        raise ValueError(f"eps_s must lie in (0, 1], got {eps_s}")
    time = 1 + _ramp(n) * (eps_s - 1)
    # expm1 keeps the digits at small times, where exp - 1 would cancel.
    return finished(torch.sqrt(torch.expm1(beta_d * time**2 / 2 + beta_min * time)), device)


def _ramp(n: int) -> Tensor:
    # On the CPU whatever torch's default device is, so that a schedule has the same bits everywhere.
    return torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")


def finished(levels: Tensor, device: torch.device | str, *, zero: bool = True) -> Tensor:
    """Return float64 levels in torch's default dtype on a device, with a final 0 where it is asked for.

    Raises ValueError for levels that are not positive and finite in that dtype.
    """
    rounded = levels.to(torch.get_default_dtype())
    # A level that float64 holds may vanish or overflow when it is rounded.
    if not bool(((rounded > 0) & rounded.isfinite()).all()):
        raise ValueError(
            "every level but the last must be positive and finite in torch's default dtype "
            f"{rounded.dtype}, got levels from {float(levels[0]):g} to {float(levels[-1]):g}"
        )
    return (torch.cat([rounded, rounded.new_zeros(1)]) if zero else rounded).to(device)


def _as_range(
    n: int, sigma_min: float, sigma_max: float, name: str = "n"
) -> tuple[int, float, float]:
    n = as_int(name, n, least=1)
    sigma_min = as_float("sigma_min", sigma_min, positive=True)
    sigma_max = as_float("sigma_max", sigma_max, positive=True)
    if sigma_min > sigma_max:
        raise ValueError(
            f"sigma_min must not exceed sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    return n, sigma_min, sigma_max
