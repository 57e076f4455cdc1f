"""Noise schedules: decreasing noise levels with a final 0, under k-diffusion's names.

Every function returns a tensor [n + 1] of torch's default dtype: n levels from the largest to the
smallest, then 0. The levels are computed in float64 and rounded once. With a ramp
r_i = i / (n - 1):

- Karras:           (sigma_max^(1/rho) + r_i (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
                    (Karras et al. 2022, arXiv 2206.00364, equation 5)
- exponential:      evenly spaced in ln sigma
- polyexponential:  ln sigma = ln sigma_min + (1 - r_i)^rho ln(sigma_max / sigma_min)
- variance preserving: sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t evenly spaced from 1 to eps_s
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
    """The n positive levels of the Karras schedule, float64 [n], largest first. name: of n in errors."""
    n, sigma_min, sigma_max = _as_range(n, sigma_min, sigma_max, name)
    rho = as_float("rho", rho, positive=True)
    try:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        high = low = math.inf
    levels = (high + _ramp(n) * (low - high)) ** rho
    # of a rho near 0 or far above the usual 7 the powers overflow, or lose the levels to rounding
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
    """The schedule of Karras et al. (2022), equation 5: [n + 1], decreasing, ending in 0.

    Raises:
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, rho <= 0, or a NaN.
    """
    return _finish(karras_levels(n, sigma_min, sigma_max, rho), device)


def get_sigmas_exponential(
    n: int, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Levels evenly spaced in ln sigma: [n + 1], decreasing, ending in 0.

    Raises:
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, or a NaN.
    """
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


def get_sigmas_polyexponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Levels polynomial in ln sigma (rho = 1 is the exponential schedule): [n + 1], ending in 0.

    Raises:
        ValueError: n < 1, sigma_min <= 0, sigma_min > sigma_max, rho <= 0, or a NaN.
    """
    n, sigma_min, sigma_max = _as_range(n, sigma_min, sigma_max)
    rho = as_float("rho", rho, positive=True)
    span = math.log(sigma_max) - math.log(sigma_min)
    return _finish(torch.exp(math.log(sigma_min) + (1 - _ramp(n)) ** rho * span), device)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The schedule of the variance-preserving SDE, times 1 to eps_s: [n + 1], ending in 0.

    Raises:
        ValueError: n < 1, a coefficient that is not positive, or eps_s > 1.
    """
    n = as_int("n", n, least=1)
    beta_d = as_float("beta_d", beta_d, positive=True)
    beta_min = as_float("beta_min", beta_min, positive=True)
    eps_s = as_float("eps_s", eps_s, positive=True)
    if eps_s > 1:
        raise ValueError(f"eps_s must lie in (0, 1], got {eps_s}")
    time = 1 + _ramp(n) * (eps_s - 1)
    return _finish(torch.sqrt(torch.expm1(beta_d * time**2 / 2 + beta_min * time)), device)


def _ramp(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")


def _finish(levels: Tensor, device: torch.device | str) -> Tensor:
    ended = torch.cat([levels, levels.new_zeros(1)]).to(torch.get_default_dtype())
    if not bool(((ended[:-1] > 0) & ended[:-1].isfinite()).all()):
        raise ValueError(
            f"every level but the last must be positive and finite in torch's default dtype {ended.dtype}, "
            f"got levels from {float(levels[0]):g} to {float(levels[-1]):g}"
        )
    return ended.to(device)


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
