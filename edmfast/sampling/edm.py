"""The stochastic sampler of EDM and EDM2 under the arguments of the NVlabs functions.

Karras et al. 2022, arXiv 2206.00364, algorithm 2, on the grid of equation 5: churn, then a step of
Heun's method. EDM2 (Karras et al. 2024, arXiv 2312.02696) adds guidance by a second network
(arXiv 2406.02507): D = D_guide + guidance (D_net - D_guide).

The networks are called as net(x, sigma [B]) or net(x, sigma [B], labels), so NVlabs networks and
every denoiser of this package fit (condition the latter with `edmfast.Conditioned`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float, check_level
from edmfast.models.calling.foreign import call_denoiser
from edmfast.sampling.common import Model, as_churn, bind, check_state, checked_end, churn_factors
from edmfast.sampling.noise import or_default
from edmfast.sampling.ode import heun_step
from edmfast.sampling.schedules import karras_levels

RandnLike = Callable[[Tensor], Tensor]


@without_gradients
def edm_sampler(
    net: Model,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like: RandnLike = torch.randn_like,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
) -> Tensor:
    """EDM's sampler: 2 num_steps - 1 calls of the network.

    Args:
        net: denoiser; its `sigma_min`, `sigma_max`, `round_sigma` are honoured where it has them.
        latents: [B, *shape], standard normal; scaled by the first noise level here.
        class_labels: third argument of the network, left out where None.
        randn_like: noise source, called at every step; where not given, noise is counter-based
            (sample k's depends on k and torch's seed alone).

    Returns:
        [B, *shape] in float64. The network gets float32 (float64 where the latents are).

    Raises:
        TypeError, ValueError: bad latents, step count, noise range or churn, or a network that
            returns another shape.
    """
    check_state(latents, "latents")
    sigma_min = max(as_float("sigma_min", sigma_min), _bound_of(net, "sigma_min", 0.0))
    sigma_max = min(as_float("sigma_max", sigma_max), _bound_of(net, "sigma_max", math.inf))
    S_churn, S_min, S_max, S_noise = as_churn("S", S_churn, S_min, S_max, S_noise)
    network_dtype = torch.float64 if latents.dtype == torch.float64 else torch.float32
    check_level("sigma_max", as_float("sigma_max", sigma_max, positive=True), network_dtype)
    rounded = getattr(net, "round_sigma", lambda sigma: sigma)
    grid = rounded(
        karras_levels(num_steps, sigma_min, sigma_max, rho, "num_steps").to(latents.device)
    ).double()
    levels = [*grid.tolist(), 0.0]
    _check_levels(levels, network_dtype)
    gammas = grid.new_tensor(churn_factors(levels, S_churn, S_min, S_max))
    raised = rounded(grid + gammas * grid).double().tolist()
    denoise = bind(_cast(net, network_dtype, torch.float64, class_labels), None)
    every_step = randn_like is not torch.randn_like
    return _integrate(
        denoise, latents.double(), levels, raised, S_noise, randn_like, every_step=every_step
    )


@without_gradients
def edm2_sampler(
    net: Model,
    noise: Tensor,
    labels: Tensor | None = None,
    gnet: Model | None = None,
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    guidance: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    dtype: torch.dtype = torch.float32,
    randn_like: RandnLike = torch.randn_like,
) -> Tensor:
    """EDM2's sampler: 2 num_steps - 1 calls of the network, as many of the guide.

    Args:
        net: denoiser.
        noise: [B, *shape], standard normal; scaled by the first noise level here.
        labels: third argument of both networks, left out where None.
        gnet: the guiding network, needed and called only where guidance != 1.
        guidance: weight of `net` against `gnet`; 1 is no guidance.
        dtype: of the state, of the networks' input and of the result.
        randn_like: noise source, called at churned steps; where not given, noise is counter-based
            (sample k's depends on k and torch's seed alone).

    Returns:
        [B, *shape] in `dtype`.

    Raises:
        TypeError, ValueError: bad noise, step count, noise range or churn, guidance without a
            guiding network, or a network that returns another shape.
    """
    check_state(noise, "noise")
    guidance = as_float("guidance", guidance)
    S_churn, S_min, S_max, S_noise = as_churn("S", S_churn, S_min, S_max, S_noise)
    check_level("sigma_max", as_float("sigma_max", sigma_max, positive=True), dtype)
    levels = [*karras_levels(num_steps, sigma_min, sigma_max, rho, "num_steps").tolist(), 0.0]
    _check_levels(levels, dtype)
    gammas = churn_factors(levels, S_churn, S_min, S_max)
    raised = [sigma * (1 + gamma) for sigma, gamma in zip(levels, gammas, strict=False)]
    model = _cast(net, dtype, dtype, labels)
    if guidance != 1:
        if gnet is None:
            raise ValueError(f"guidance={guidance} needs a guiding network gnet, got None")
        model = _guided(model, _cast(gnet, dtype, dtype, labels), guidance)
    return _integrate(
        bind(model, None), noise.to(dtype), levels, raised, S_noise, randn_like, every_step=False
    )


def _integrate(
    denoise: Callable[[Tensor, float], Tensor],
    latents: Tensor,
    levels: list[float],
    raised: list[float],
    s_noise: float,
    randn_like: RandnLike,
    *,
    every_step: bool,
) -> Tensor:
    """Algorithm 2 from unit noise over levels [T + 1], step i starting from raised[i]."""
    given = None if randn_like is torch.randn_like else randn_like
    churned = any(hat > sigma for hat, sigma in zip(raised, levels, strict=False))
    draw = or_default(given, latents, needed=churned)
    x = latents * levels[0]
    for sigma, sigma_hat, sigma_next in zip(levels, raised, levels[1:], strict=False):
        if every_step or sigma_hat > sigma:
            fresh = s_noise * math.sqrt(max(sigma_hat**2 - sigma**2, 0.0))
            x = x + draw(x) * fresh
        x = heun_step(denoise, x, denoise(x, sigma_hat), sigma_hat, sigma_next)
    return checked_end(x)


def _bound_of(net: Model, name: str, absent: float) -> float:
    """A network's own limit of the noise level, where it has one."""
    return as_float(f"the network's {name}", getattr(net, name, absent), finite=False)


def _check_levels(levels: list[float], dtype: torch.dtype) -> None:
    for i, level in enumerate(levels[:-1]):
        check_level(f"noise level {i} of the grid", level, dtype)


def _cast(net: Model, inside: torch.dtype, outside: torch.dtype, labels: Tensor | None) -> Model:
    """The network as a denoiser that takes and gives `outside`, computing in `inside`."""
    extra: tuple[Any, ...] = () if labels is None else (labels,)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return call_denoiser(net, x.to(inside), sigma.to(inside), *extra).to(outside)

    return denoiser


def _guided(model: Model, guide: Model, weight: float) -> Model:
    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        reference = guide(x, sigma)
        return reference + (model(x, sigma) - reference) * weight

    return denoiser
