"""The preconditioned denoiser of k-diffusion's `layers`, whose network receives the noise level itself.

    D(x, sigma) = c_skip x + c_out F(c_in x, sigma),    c_in = 1 / sqrt(sigma^2 + sigma_data^2),
    c_skip = sigma_data^2 c_in^2,    c_out = sigma sigma_data c_in

Source: Karras et al. 2022, arXiv 2206.00364, table 1; Hang et al. 2023, arXiv 2303.09556 (weights by the
signal-to-noise ratio).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_float, as_int
from edmfast.k_diffusion.external.calling import levels_like, multiply_add, predict

__all__ = ["Denoiser"]

Weighting = Callable[[Tensor], Tensor]


class Denoiser(nn.Module):
    """A denoiser in the preconditioning of Karras et al. around a network that receives sigma.

    `edmfast.Denoiser` has the same preconditioning, and its network receives ln(sigma) / 4.
    Sources: Karras et al. 2022, arXiv 2206.00364, table 1; Hang et al. 2023, arXiv 2303.09556.

    Args:
        inner_model: the network, called as inner_model(y [B, *shape], sigma [B], **conditions) -> like y.
        sigma_data: the standard deviation of the data, positive.
        weighting: the weight of the loss at each noise level: "karras" for 1, "soft-min-snr", "snr", or a function
            of sigma [B].
        scales: 1. k-diffusion's weights of frequencies are not here.

    Raises:
        TypeError: a sigma_data that is no number, or a weighting that is neither a name nor a function.
        ValueError: a sigma_data that is not positive, an unknown weighting, or other scales.
    """

    def __init__(
        self,
        inner_model: nn.Module,
        sigma_data: float = 1.0,
        weighting: str | Weighting = "karras",
        scales: int = 1,
    ) -> None:
        super().__init__()
        self.inner_model = inner_model
        self.sigma_data = as_float("sigma_data", sigma_data, positive=True)
        self.scales = as_int("scales", scales, least=1, most=1)
        self.weighting = weighting if callable(weighting) else self._named(weighting)

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (c_skip, c_out, c_in) in the shape of sigma."""
        total = sigma**2 + self.sigma_data**2
        c_in = total.rsqrt()
        return self.sigma_data**2 / total, self.sigma_data * sigma * c_in, c_in

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Return the weighted mean squared error of the network for each sample, [B].

        input: clean states [B, *shape]. noise: standard normals like them. sigma: their noise levels [B].
        """
        levels = levels_like(sigma, input)
        c_skip, c_out, c_in = self.get_scalings(levels)
        noised = input + noise * levels
        rows = levels.reshape(-1)
        output = predict(self.inner_model, noised * c_in, rows.clone(), **kwargs)
        error = output - (input - c_skip * noised) / c_out
        return error.square().flatten(1).mean(1) * self.weighting(rows)

    def forward(self, input: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        """Return the denoised states like input [B, *shape] at noise levels sigma, a float, [] or [B]."""
        levels = levels_like(sigma, input)
        c_skip, c_out, c_in = self.get_scalings(levels)
        # A network may overwrite what it gets.
        output = predict(self.inner_model, input * c_in, levels.reshape(-1).clone(), **kwargs)
        return multiply_add(input * c_skip, c_out, output)

    def _named(self, weighting: str) -> Weighting:
        names: dict[str, Weighting] = {
            "karras": torch.ones_like,
            "soft-min-snr": self._soft_min_snr,
            "snr": self._snr,
        }
        if not isinstance(weighting, str):
            raise TypeError(f"weighting must be a name or a function, got {weighting!r}")
        if weighting not in names:
            raise ValueError(f"weighting must be one of {', '.join(names)}, got {weighting!r}")
        return names[weighting]

    def _soft_min_snr(self, sigma: Tensor) -> Tensor:
        return (sigma * self.sigma_data / (sigma**2 + self.sigma_data**2)) ** 2

    def _snr(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
