"""The elementary steps of the samplers: the slope of the ODE, the ancestral split, and Karras et al.'s churn.

The samplers are built from single multiplications and additions per element. Fused forms (addcmul, lerp) may round
differently in a vector loop and in its tail, and would make the bits of a sample depend on the batch around it. A
step changes the tensors that it has just made in place, because on large states fresh memory costs more than the
arithmetic. It never changes a tensor that a model, a callback or a caller holds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast.models.preconditioning import expand_sigma


def to_d(x: Tensor, sigma: float | Tensor, denoised: Tensor) -> Tensor:
    """Return the slope dx/dsigma = (x - denoised) / sigma of the probability-flow ODE.

    Source: Karras et al. 2022, arXiv 2206.00364, equation 1 with sigma(t) = t; the name is k-diffusion's.

    Args:
        x: the noisy states [B, *shape].
        sigma: their noise levels in units of x, positive: a float, [] or [B].
        denoised: the denoised states [B, *shape].

    Returns:
        The slope [B, *shape].

    Raises:
        TypeError: a sigma that is no number.
        ValueError: a float sigma that is not positive and finite, or a tensor of another shape.
    """
    if isinstance(sigma, Tensor):
        return (x - denoised) / expand_sigma(sigma, x)
    return (x - denoised).div_(as_float("sigma", sigma, positive=True))


def get_ancestral_step(
    sigma_from: float | Tensor, sigma_to: float | Tensor, eta: float = 1.0
) -> tuple[Any, Any]:
    """Split a step into a deterministic move to sigma_down and fresh noise of standard deviation sigma_up.

    sigma_up = min(sigma_to, eta sqrt(sigma_to² (sigma_from² - sigma_to²) / sigma_from²)), and
    sigma_down² = sigma_to² - sigma_up².
    Sources: Ho et al. 2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502 (eta); the name is k-diffusion's.

    Args:
        sigma_from: the noise level before the step, in units of x: a float or a tensor of any shape.
        sigma_to: the noise level after the step, not above sigma_from where eta > 0.
        eta: 1 gives ancestral sampling, and 0 gives the ODE without noise.

    Returns:
        (sigma_down, sigma_up): floats for floats, tensors for tensors.

    Raises:
        TypeError: a level or eta that is no number.
        ValueError: a negative eta; and with eta > 0 a level that rises, for which there is no such split, or a
            sigma_from that is not positive. The levels in a traced tensor are not checked.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    sigma_from, sigma_to = _as_level("sigma_from", sigma_from), _as_level("sigma_to", sigma_to)
    # The formula below has no real value for a level that rises, which the ODE accepts.
    if not eta:
        return sigma_to, 0.0
    _check_falling(sigma_from, sigma_to)
    up = eta * sigma_to / sigma_from * (sigma_from**2 - sigma_to**2) ** 0.5
    # An eta above 1 could ask for more noise than the next level has.
    up = torch.clamp(up, max=sigma_to) if isinstance(up, Tensor) else min(up, sigma_to)
    return (sigma_to**2 - up**2) ** 0.5, up


def churn_factor(sigma: float, steps: int, churn: float, low: float, high: float) -> float:
    """Return the factor gamma of a step: a churned step raises the noise to (1 + gamma) sigma first.

    gamma = min(S_churn / T, sqrt(2) - 1) where sigma is in [S_min, S_max], and 0 elsewhere. steps: T.
    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2.
    """
    # The bound keeps the fresh noise of a step from exceeding the noise that is there already.
    return min(churn / steps, math.sqrt(2) - 1) if low <= sigma <= high else 0.0


def churn_factors(levels: list[float], churn: float, low: float, high: float) -> list[float]:
    """Return the factors of all steps over levels [T + 1], see `churn_factor`."""
    return [churn_factor(sigma, len(levels) - 1, churn, low, high) for sigma in levels[:-1]]


def as_churn(
    prefix: str, churn: float, low: float, high: float, noise: float
) -> tuple[float, float, float, float]:
    """Return the four settings of the churn as floats. prefix: "s" for k-diffusion's names, "S" for EDM's.

    Raises TypeError for values that are no numbers, ValueError for negative ones.
    """
    low_name, high_name = ("s_tmin", "s_tmax") if prefix == "s" else ("S_min", "S_max")
    return (
        as_float(f"{prefix}_churn", churn, least=0, finite=False),
        as_float(low_name, low, least=0, finite=False),
        as_float(high_name, high, least=0, finite=False),
        as_float(f"{prefix}_noise", noise, least=0),
    )


def _as_level(name: str, sigma: float | Tensor) -> float | Tensor:
    if isinstance(sigma, Tensor):
        return sigma
    level = as_float(name, sigma, least=0)
    # 0 is a valid end of a run, and has no square that could vanish.
    if level > 0:
        check_level(name, level)
    return level


def _check_falling(sigma_from: float | Tensor, sigma_to: float | Tensor) -> None:
    # A trace has no values to check, and reading them would break the graph.
    if torch.compiler.is_compiling():
        return
    above, below = torch.as_tensor(sigma_from), torch.as_tensor(sigma_to)
    if not bool(((above >= below.to(above)) & (above > 0)).all()):
        raise ValueError(
            "an ancestral step goes down from a positive level: sigma_to must not exceed sigma_from, "
            f"got sigma_from = {sigma_from}, sigma_to = {sigma_to} (eta = 0 takes both directions)"
        )
