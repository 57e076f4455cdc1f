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

from edmfast.sampling.common import check_positive


def karras_levels(n: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The n positive levels of the Karras schedule, float64 [n], largest first."""
    _check_range(n, sigma_min, sigma_max)
    check_positive(rho=rho)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + _ramp(n) * (low - high)) ** rho


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
    _check_range(n, sigma_min, sigma_max)
    check_positive(rho=rho)
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
    _check_count(n)
    check_positive(beta_d=beta_d, beta_min=beta_min, eps_s=eps_s)
    if eps_s > 1:
        raise ValueError(f"eps_s must lie in (0, 1], got {eps_s}")
    time = 1 + _ramp(n) * (eps_s - 1)
    return _finish(torch.sqrt(torch.expm1(beta_d * time**2 / 2 + beta_min * time)), device)


def _ramp(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")


def _finish(levels: Tensor, device: torch.device | str) -> Tensor:
    ended = torch.cat([levels, levels.new_zeros(1)])
    return ended.to(device=device, dtype=torch.get_default_dtype())


def _check_count(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an integer of at least 1 (steps), got {n!r}")


def _check_range(n: int, sigma_min: float, sigma_max: float) -> None:
    _check_count(n)
    check_positive(sigma_min=sigma_min, sigma_max=sigma_max)
    if sigma_min > sigma_max:
        raise ValueError(
            f"sigma_min must not exceed sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
