"""Wrappers of networks that predict v = alpha eps - s x_0 of a variance-preserving state alpha x_0 + s eps.

With sigma = s / alpha, D = c_skip x + c_out v, where c_skip = 1 / (1 + sigma^2) and c_out = -sigma sqrt(c_skip).
"""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.k_diffusion.external.calling import levels_like, multiply_add, predict
from edmfast.k_diffusion.external.schedule import DiscreteSchedule, sigmas_of
from edmfast.models.calling.foreign import name_of

Scalings = tuple[Tensor, Tensor, Tensor]


class _VelocityDenoiser(nn.Module):
    """The part that all denoisers of v share: scalings, loss and denoised states."""

    inner_model: nn.Module
    sigma_data = 1.0

    def get_scalings(self, sigma: Tensor) -> Scalings:
        """Return (c_skip, c_out, c_in) in the shape of sigma: D = c_skip x + c_out v(c_in x, t)."""
        total = sigma**2 + self.sigma_data**2
        c_in = total.rsqrt()
        return self.sigma_data**2 / total, -self.sigma_data * sigma * c_in, c_in

    def get_v(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Return the predicted v like the scaled states x [B, *shape] at times t [B]. Subclasses replace it."""
        return predict(self.inner_model, x, t, **kwargs)

    @abc.abstractmethod
    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Return the times of noise levels, in the shape of sigma."""

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Return the mean squared error of the predicted v for each sample, [B].

        input: clean states [B, *shape]. noise: standard normals like them. sigma: their noise levels [B].
        """
        levels = levels_like(sigma, input)
        c_skip, c_out, c_in = self.get_scalings(levels)
        noised = input + noise * levels
        v = self.get_v(noised * c_in, self.sigma_to_t(levels.reshape(-1)), **kwargs)
        return (v - (input - c_skip * noised) / c_out).square().flatten(1).mean(1)

    def forward(self, input: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        """Return the denoised states like input [B, *shape] at noise levels sigma, a float, [] or [B]."""
        levels = levels_like(sigma, input)
        c_skip, c_out, c_in = self.get_scalings(levels)
        v = self.get_v(input * c_in, self.sigma_to_t(levels.reshape(-1)), **kwargs)
        return multiply_add(input * c_skip, c_out, v)


class VDenoiser(_VelocityDenoiser):
    """A denoiser around a network that predicts v at a continuous time t = (2 / pi) atan(sigma), from 0 to 1.

    Source: Salimans and Ho 2022, arXiv 2202.00512.

    Args:
        inner_model: the network, called as inner_model(y [B, *shape], t [B], **conditions) -> v like y.
    """

    def __init__(self, inner_model: nn.Module) -> None:
        super().__init__()
        self.inner_model = inner_model

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Return the times of noise levels, in the shape of sigma."""
        return sigma.atan() / math.pi * 2

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Return the noise levels of times, in the shape of t."""
        return (t * math.pi / 2).tan()


class DiscreteVDDPMDenoiser(DiscreteSchedule, _VelocityDenoiser):
    """A denoiser around a network that predicts v, which was trained at a list of noise levels.

    Source: Salimans and Ho 2022, arXiv 2202.00512.

    Args:
        model: the network, called as model(y [B, *shape], t [B], **conditions) -> v like y.
        alphas_cumprod: the products of 1 - beta up to each time, [N], that do not increase.
        quantize: round times to whole ones.

    Raises:
        TypeError: alphas_cumprod that is no floating-point tensor.
        ValueError: alphas_cumprod of another shape, or out of order.
    """

    def __init__(self, model: nn.Module, alphas_cumprod: Tensor, quantize: bool) -> None:
        super().__init__(sigmas_of(alphas_cumprod), quantize)
        self.inner_model = model


class CompVisVDenoiser(DiscreteVDDPMDenoiser):
    """A denoiser around a model of CompVis's latent diffusion, whose method `apply_model` predicts v.

    Source: Rombach et al. 2022, arXiv 2112.10752.

    Args:
        model: has alphas_cumprod [N] and apply_model(y [B, *shape], t [B], cond) -> v like y.
        quantize: round times to whole ones.
        device: takes no effect, as in k-diffusion; the noise levels are where model.alphas_cumprod is.

    Raises:
        TypeError: alphas_cumprod that is no floating-point tensor.
        ValueError: alphas_cumprod of another shape, or out of order.
    """

    def __init__(
        self, model: Any, quantize: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(model, model.alphas_cumprod, quantize=quantize)

    def get_v(self, x: Tensor, t: Tensor, cond: Any = None, **kwargs: Any) -> Tensor:
        """Return the predicted v like x. The condition cond is passed on by position, and others are dropped."""
        return predict(_third_by_position(self.inner_model.apply_model), x, t, cond=cond)


def _third_by_position(apply: Any) -> Any:
    """Return apply as a function that takes its third argument as the keyword `cond`."""

    def apply_model(y: Tensor, t: Tensor, cond: Any) -> Any:
        return apply(y, t, cond)

    apply_model.__qualname__ = name_of(apply)
    return apply_model
