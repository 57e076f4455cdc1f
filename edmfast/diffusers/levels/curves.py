"""The curves of noise levels that configurations of diffusers name.

All arithmetic has the precision and the order that make the levels equal to those of diffusers bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

Array = Any
"""An array of NumPy. Its operators have types without precision."""


def training_sigmas(alphas_cumprod: Tensor) -> Array:
    """Return the noise levels sqrt((1 - alpha_bar) / alpha_bar) of all timesteps, float32 and rising."""
    return (((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).numpy()


def timesteps_of_sigmas(sigmas: Array, log_sigmas: Array, dtype: Any = np.float64) -> Array:
    """Return the timesteps at noise levels, linear in ln sigma between those of training, in a precision."""
    log_sigma = np.log(np.maximum(sigmas, 1e-10))
    low: Array = np.searchsorted(log_sigmas, log_sigma, side="right") - 1
    low = low.clip(0, len(log_sigmas) - 2)
    weight = (log_sigmas[low] - log_sigma) / (log_sigmas[low] - log_sigmas[low + 1])
    weight = np.clip(weight, 0, 1)
    return (1 - weight) * low.astype(dtype) + weight * (low + 1).astype(dtype)


def karras(sigma_max: float, sigma_min: float, count: int, rho: float = 7.0) -> Array:
    """Return falling levels, linear in sigma^(1/rho) (Karras et al. 2022, equation 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + np.linspace(0, 1, count) * (low - high)) ** rho


def exponential(sigma_max: float, sigma_min: float, count: int) -> Array:
    """Return falling levels, linear in ln sigma."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), count))


def beta(sigma_max: float, sigma_min: float, count: int) -> Array:
    """Return falling levels at the quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173)."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(
            "use_beta_sigmas=True needs scipy, as it does in diffusers: pip install scipy"
        ) from error
    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, count), 0.6, 0.6)
    return sigma_min + quantiles * (sigma_max - sigma_min)


CURVES = {
    "use_karras_sigmas": karras,
    "use_exponential_sigmas": exponential,
    "use_beta_sigmas": beta,
}


def curve_of(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the setting that asks for a curve of levels, or None."""
    for name in CURVES:
        if settings.get(name):
            return name
    return None


def on_curve(name: str, sigmas: Array, count: int, settings: Mapping[str, Any]) -> Array:
    """Return count falling levels on a curve between the ends of falling sigmas, or those of the settings."""
    low, high = settings.get("sigma_min"), settings.get("sigma_max")
    low = sigmas[-1].item() if low is None else low
    high = sigmas[0].item() if high is None else high
    return CURVES[name](high, low, count)


def shifted(sigmas: Array, shift: float) -> Array:
    """Return the levels of a flow after a shift of its times (Esser et al. 2024, equation 23)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def dynamically_shifted(sigmas: Array, mu: float, kind: str) -> Array:
    """Return the levels of a flow after the shift that a pipeline chose by mu."""
    factor = math.exp(mu) if kind == "exponential" else mu
    return factor / (factor + (1 / sigmas - 1) ** 1.0)


def stretched(sigmas: Array, terminal: float) -> Array:
    """Return the levels of a flow, stretched so that the last one is terminal; pure noise alone stays."""
    rest = 1 - sigmas
    if not rest[-1]:
        return sigmas
    return 1 - rest / (rest[-1] / (1 - terminal))
