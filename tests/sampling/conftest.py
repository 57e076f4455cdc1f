"""Provide reference trajectories of the public projects in float64, and the denoiser that made them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

FILE = Path(__file__).parents[1] / "data" / "samplers.npz"


@dataclass
class Trajectories:
    """The stored arrays by key, and their counts of model calls."""

    arrays: dict[str, Tensor]
    meta: dict[str, Any]

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def start(self) -> Tensor:
        return self["z"] * self["sigmas_karras"][0]

    def noise_by_call(self) -> Any:
        """Return a noise source that replays the stored noise in the order of the calls."""
        draws = iter(self["noises"])
        return lambda *_: next(draws)

    def noise_by_step(self) -> Any:
        """Return a noise source with the i-th stored noise at step i, for samplers that draw at every step."""
        steps = {float(sigma): i for i, sigma in enumerate(self["sigmas_karras"])}
        return lambda sigma, sigma_next: self["noises"][steps[float(sigma)]]


@dataclass
class MixtureDenoiser:
    """The denoiser E[x_0 | x] of an isotropic Gaussian mixture by its formula, which counts its calls."""

    means: Tensor
    stds: Tensor
    weights: Tensor
    sigmas: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.sigmas.append(sigma)
        noise = sigma.reshape(-1, 1, 1) ** 2
        clean = self.stds[None, :, None] ** 2
        gap = x[:, None, :] - self.means
        logits = -0.5 * (gap**2 / (clean + noise) + torch.log(clean + noise)).sum(-1)
        share = torch.softmax(logits + self.weights.log(), dim=1)
        return (share[:, :, None] * (self.means + clean / (clean + noise) * gap)).sum(1)


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def stored(request: pytest.FixtureRequest) -> Trajectories:
    """Return the trajectories on the CPU, and on a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with np.load(FILE, allow_pickle=False) as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key != "meta"}
        arrays = {key: array.to(request.param) for key, array in arrays.items()}
        return Trajectories(arrays, json.loads(str(archive["meta"])))


@pytest.fixture
def denoiser(stored: Trajectories) -> MixtureDenoiser:
    return MixtureDenoiser(stored["mu"], stored["sd"], stored["w"])
