"""The noising of clean samples to a level of the schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.diffusers.families import EDM, VE
from edmfast.diffusers.steps.state import MISSING_IS_LAST, State
from edmfast.diffusers.steps.timestep_index import place_of


class Noising(State):
    """The methods of a scheduler that noise clean samples, for training and for pipelines of images."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return clean samples [B, *shape], noised to the levels of timesteps [B].

        Where a pipeline has set `begin_index`, the level is that of the present model call instead.
        """
        if self._family.name == "DDIMScheduler":
            table = self._grid.alphas_cumprod
            assert table is not None
            signal, spread = of_timesteps(table, original_samples, timesteps)
            return signal * original_samples + spread * noise
        if self._family.name == "IPNDMScheduler":
            raise ValueError("IPNDMScheduler adds no noise, in diffusers too")
        return noised(
            self._frame.kind, original_samples, noise, self._levels_of(original_samples, timesteps)
        )

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return clean samples of a flow [B, *shape], noised to the levels of timesteps [B]."""
        return self.add_noise(sample, noise, timestep)

    def _levels_of(self, like: Tensor, timesteps: Tensor) -> Tensor:
        if self._begin_index is None:
            values = self.timesteps.tolist()
            missing = self._family.name in MISSING_IS_LAST
            places = [place_of(float(t), values, missing) for t in timesteps]
        else:
            present = self._begin_index if self._step_index is None else self._step_index
            places = [present] * timesteps.shape[0]
        levels: Tensor = self.sigmas[places].to(device=like.device, dtype=like.dtype)
        return levels

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) sample at whole timesteps [B].

        Raises:
            ValueError: a configuration of another class than DDIMScheduler.
        """
        if self._family.name != "DDIMScheduler":
            raise ValueError(f"get_velocity is for DDIMScheduler, and not for {self._family.name}")
        table = self._grid.alphas_cumprod
        assert table is not None
        signal, spread = of_timesteps(table, sample, timesteps)
        return signal * noise - spread * sample


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
