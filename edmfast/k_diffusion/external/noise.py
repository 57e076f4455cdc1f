"""Wrappers of networks that predict the noise of a variance-preserving state: D = x - sigma eps."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_bool
from edmfast.k_diffusion.external.calling import levels_like, multiply_add, predict
from edmfast.k_diffusion.external.schedule import DiscreteSchedule, sigmas_of
from edmfast.models.calling.foreign import name_of


class DiscreteEpsDDPMDenoiser(DiscreteSchedule):
    """A denoiser around a network that predicts noise, which was trained at a list of noise levels.

    Sources: Ho et al. 2020, arXiv 2006.11239; Karras et al. 2022, arXiv 2206.00364, table 1 (the scaling).

    Args:
        model: the network, called as model(y [B, *shape], t [B], **conditions) -> noise like y.
        alphas_cumprod: the products of 1 - beta up to each time, [N], that do not increase.
        quantize: round times to whole ones.

    Raises:
        TypeError: alphas_cumprod that is no floating-point tensor.
        ValueError: alphas_cumprod of another shape, or out of order.
    """

    def __init__(self, model: nn.Module, alphas_cumprod: Tensor, quantize: bool) -> None:
        super().__init__(sigmas_of(alphas_cumprod), quantize)
        self.inner_model = model
        self.sigma_data = 1.0

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return (c_out, c_in) in the shape of sigma: D = x + c_out eps(c_in x, t)."""
        return -sigma, (sigma**2 + self.sigma_data**2).rsqrt()

    def get_eps(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Return the predicted noise like scaled states x [B, *shape] at times t [B]. Subclasses replace it."""
        return predict(self.inner_model, x, t, **kwargs)

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Return the mean squared error of the predicted noise for each sample, [B].

        input: clean states [B, *shape]. noise: standard normals like them. sigma: their noise levels [B].
        """
        levels = levels_like(sigma, input)
        eps = self._eps(input + noise * levels, levels, self.get_scalings(levels)[1], kwargs)
        return (eps - noise).square().flatten(1).mean(1)

    def forward(self, input: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        """Return the denoised states like input [B, *shape] at noise levels sigma, a float, [] or [B]."""
        levels = levels_like(sigma, input)
        c_out, c_in = self.get_scalings(levels)
        return multiply_add(input, c_out, self._eps(input, levels, c_in, kwargs))

    def _eps(self, x: Tensor, levels: Tensor, c_in: Tensor, kwargs: dict[str, Any]) -> Tensor:
        return self.get_eps(x * c_in, self.sigma_to_t(levels.reshape(-1)), **kwargs)


class OpenAIDenoiser(DiscreteEpsDDPMDenoiser):
    """A denoiser around a network of OpenAI's guided diffusion, which may also predict its variance.

    Source: Dhariwal and Nichol 2021, arXiv 2105.05233.

    Args:
        model: the network, called as model(y [B, C, *size], t [B], **conditions) -> [B, 2 C, *size], or
            [B, C, *size] without learned variances.
        diffusion: an object with alphas_cumprod, a sequence or array [N].
        quantize: round times to whole ones.
        has_learned_sigmas: the network returns 2 C channels, of which the first C are the noise.
        device: the device of the noise levels.

    Raises:
        ValueError: alphas_cumprod of another shape or out of order; in a call, another number of channels.
    """

    def __init__(
        self,
        model: nn.Module,
        diffusion: Any,
        quantize: bool = False,
        has_learned_sigmas: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        products = torch.as_tensor(diffusion.alphas_cumprod, dtype=torch.float32, device=device)
        super().__init__(model, products, quantize=quantize)
        self.has_learned_sigmas = as_bool("has_learned_sigmas", has_learned_sigmas)

    def get_eps(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Return the predicted noise like x, without the predicted variances."""
        network = _noise_of(self.inner_model) if self.has_learned_sigmas else self.inner_model
        return predict(network, x, t, **kwargs)


class CompVisDenoiser(DiscreteEpsDDPMDenoiser):
    """A denoiser around a model of CompVis's latent diffusion, whose method `apply_model` predicts noise.

    Source: Rombach et al. 2022, arXiv 2112.10752.

    Args:
        model: has alphas_cumprod [N] and apply_model(y [B, *shape], t [B], cond=..., ...) -> noise like y.
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

    def get_eps(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Return the predicted noise like x."""
        apply: Any = self.inner_model.apply_model
        return predict(apply, x, t, **kwargs)


def _noise_of(network: Any) -> Any:
    """Return a function that calls the network and returns the first half of its channels."""

    @functools.wraps(network.forward if isinstance(network, nn.Module) else network)
    def first_half(y: Tensor, t: Tensor, **condition: Any) -> Any:
        both = network(y, t, **condition)
        if not isinstance(both, Tensor):
            return both
        if both.ndim != y.ndim or both.shape[1] != 2 * y.shape[1]:
            raise ValueError(
                f"a model with learned sigmas must return {2 * y.shape[1]} channels for {y.shape[1]}: "
                f"{name_of(network)} returned {[*both.shape]}; pass has_learned_sigmas=False where it predicts "
                "the noise alone"
            )
        return both[:, : y.shape[1]]

    first_half.__qualname__ = name_of(network)
    return first_half
