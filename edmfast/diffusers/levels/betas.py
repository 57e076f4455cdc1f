"""The tables of betas that configurations of diffusers name, and the products alpha_bar of 1 - beta.

All arithmetic is in float32 and in the order of diffusers, so that the noise levels are equal to its own.
Sources: Ho et al. 2020, arXiv 2006.11239; Nichol and Dhariwal 2021, arXiv 2102.09672 (cosine); Lin et al. 2023,
arXiv 2305.08891, algorithm 1 (zero terminal signal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_SMALLEST_ALPHA_BAR = 2.0**-24
"""The last alpha_bar where a schedule ends without signal, since 0 would give an infinite noise level."""
_LARGEST_BETA = 0.999

_SIGNAL: dict[str, Callable[[float], float]] = {
    "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
    "exp": lambda t: math.exp(-12.0 * t),
}
"""alpha_bar as a function of the time from 0 to 1."""


def alphas_cumprod_of(settings: Mapping[str, Any]) -> Tensor:
    """Return alpha_bar of all training timesteps, float32 [num_train_timesteps], falling.

    settings: num_train_timesteps, beta_start, beta_end, beta_schedule and trained_betas, as schedulers of
        diffusers name them, and optionally rescale_betas_zero_snr.
    Raises ValueError for an unknown beta_schedule.
    """
    return tables_of(settings)[1]


def tables_of(settings: Mapping[str, Any], keep_zero: bool = False) -> tuple[Tensor, Tensor]:
    """Return (betas, alpha_bar) of all training timesteps; see `alphas_cumprod_of`.

    keep_zero: leave the last alpha_bar of rescale_betas_zero_snr as it is, nearly 0, which DDIM of diffusers does.
    """
    betas = _betas(settings)
    zero_snr = settings.get("rescale_betas_zero_snr", False)
    if zero_snr:
        root = torch.cumprod(1.0 - betas, dim=0).sqrt()
        first, last = root[0].clone(), root[-1].clone()
        alpha_bar = ((root - last) * (first / (first - last))) ** 2
        betas = 1.0 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    # diffusers goes back to betas, which rounds
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    if zero_snr and not keep_zero:
        alpha_bar[-1] = _SMALLEST_ALPHA_BAR
    return betas, alpha_bar


def _betas(settings: Mapping[str, Any]) -> Tensor:
    if settings.get("trained_betas") is not None:
        return torch.as_tensor(settings["trained_betas"], dtype=torch.float32)
    count, schedule = settings["num_train_timesteps"], settings["beta_schedule"]
    start, end = settings["beta_start"], settings["beta_end"]
    if schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    if schedule not in _SIGNAL:
        known = ", ".join(("linear", "scaled_linear", *_SIGNAL))
        raise ValueError(f"beta_schedule must be one of {known}, got {schedule!r}")
    signal = _SIGNAL[schedule]
    steps = (signal((i + 1) / count) / signal(i / count) for i in range(count))
    return torch.tensor([min(1 - step, _LARGEST_BETA) for step in steps], dtype=torch.float32)
