"""The noising of clean samples to a level of the schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.diffusers.families import EDM, VE


def noised(kind: str, clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return alpha clean + sigma noise, with one level for each sample.

    kind: "ve", "edm", "vp" or "flow", the coordinates of the samples. sigmas: [B], in their precision.
    """
    shape = (-1, *[1] * (clean.dim() - 1))
    sigma = sigmas.reshape(shape)
    if kind in (VE, EDM):
        return clean + noise * sigma
    alpha = 1 - sigma if kind == "flow" else 1 / (sigma**2 + 1) ** 0.5
    spread = sigma if kind == "flow" else sigma * alpha
    return alpha * clean + spread * noise


def of_timesteps(alphas_cumprod: Tensor, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (sqrt(alpha_bar), sqrt(1 - alpha_bar)) at whole timesteps [B], [B, 1, ..., 1]."""
    alpha_bar = alphas_cumprod.to(device=like.device, dtype=like.dtype)
    alpha_bar = alpha_bar[timesteps.to(device=like.device, dtype=torch.int64)]
    alpha_bar = alpha_bar.reshape(-1, *[1] * (like.dim() - 1))
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
