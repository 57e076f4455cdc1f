"""RescaledNetwork: a network that was trained with another preconditioning than that of EDM, as a backbone of EDM.

The published networks of VP, VE and iDDPM have denoisers D(x; sigma) = x + s sigma N(c_in x, c), with s = -1 for
VP and iDDPM and 1 for VE:

| kind | c_in | c |
|---|---|---|
| "vp" | 1/sqrt(sigma² + 1) | (M - 1) t, with sigma² = exp(beta_d t²/2 + beta_min t) - 1 |
| "ve" | 1 | ln(sigma/2) |
| "iddpm" | 1/sqrt(sigma² + 1) | M - 1 - argmin_j abs(u_j - sigma) |

The levels of iDDPM are u_M = 0 and u_{j-1}² = (u_j² + 1)/max(a_{j-1}/a_j, C_1) - 1, with
a_j = sin²(pi j/(2 M (C_2 + 1))). `Denoiser` computes D = c_skip x + c_out F(y, ln(sigma)/4) with y = x/r and
r² = sigma² + sigma_data². Both are equal for

  F = (sigma y + s r N(c_in r y, c))/sigma_data,

in which no terms cancel at low noise. Source: Karras et al. 2022, arXiv 2206.00364, table 1 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.numbers import as_float, as_int
from edmfast.models.backbones.edm.dhariwal_unet import DhariwalUNet
from edmfast.models.backbones.edm.song_unet import SongUNet

KINDS = ("vp", "ve", "iddpm")
_NETWORKS: dict[str, type[SongUNet | DhariwalUNet]] = {
    "SongUNet": SongUNet,
    "DhariwalUNet": DhariwalUNet,
}


class RescaledNetwork(nn.Module):
    """A published network of VP, VE or iDDPM, called as EDM's networks are: backbone(y, ln(sigma)/4, class_label).

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.

    Args:
        kind: "vp", "ve" or "iddpm", the preconditioning with which the network was trained.
        network: "SongUNet" or "DhariwalUNet".
        config: the arguments of that class. A network of iDDPM may return twice the channels, of which the first
            half is taken.
        sigma_data: the sigma_data of the model around this backbone, in the units of x.
        beta_d: growth of the noise of VP.
        beta_min: noise of VP at the start.
        M: number of levels of VP and iDDPM.
        C_1: smallest ratio of two levels of iDDPM.
        C_2: offset of the levels of iDDPM.

    Raises:
        TypeError, ValueError: arguments of other types or out of range.
    """

    levels: Tensor

    def __init__(
        self,
        kind: str,
        network: str,
        config: Mapping[str, Any],
        sigma_data: float = 0.5,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        C_1: float = 0.001,
        C_2: float = 0.008,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, given {kind!r}")
        if network not in _NETWORKS:
            raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, given {network!r}")
        self.config: dict[str, Any] = {
            "kind": kind,
            "network": network,
            "config": dict(config),
            "sigma_data": as_float("sigma_data", sigma_data, positive=True),
            "beta_d": as_float("beta_d", beta_d, positive=True),
            "beta_min": as_float("beta_min", beta_min, positive=True),
            "M": as_int("M", M, least=2, most=1_000_000),
            "C_1": as_float("C_1", C_1, positive=True),
            "C_2": as_float("C_2", C_2, least=0),
        }
        self.kind, self.network = kind, _NETWORKS[network](**config)
        self.num_classes = self.network.num_classes
        numbers = _levels(self.config) if kind == "iddpm" else []
        self.register_buffer("levels", torch.tensor(numbers), persistent=False)

    def check_condition(self, condition: dict[str, Any], batch: int) -> None:
        """Raise ValueError for conditions whose rows do not fit the caller's batch of samples."""
        self.network.check_condition(condition, batch)

    def forward(
        self,
        y: Tensor,
        c_noise: Tensor,
        class_label: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return F like y. y: [B, C, H, W]. c_noise: [B], ln(sigma)/4. For labels see `SongUNet`."""
        sigma_data: float = self.config["sigma_data"]
        sigma = (4 * c_noise).exp()
        factor = unsqueeze_like(sigma, y)
        radius = (factor.square() + sigma_data**2).sqrt()
        scaled = radius * y
        if self.kind != "ve":
            scaled = scaled * (factor.square() + 1).rsqrt()
        output = self.network(scaled, self._time(sigma), class_label, augment_labels)
        output = output[:, : y.shape[1]]
        sign = 1 if self.kind == "ve" else -1
        result: Tensor = (factor * y + sign * radius * output) / sigma_data
        return result

    def _time(self, sigma: Tensor) -> Tensor:
        """Return what the network is told about noise levels [B]."""
        if self.kind == "ve":
            return (sigma / 2).log()
        if self.kind == "iddpm":
            distance = (sigma[:, None] - self.levels.to(sigma.dtype)).abs()
            index: Tensor = self.config["M"] - 1 - distance.argmin(1)
            return index.to(sigma.dtype)
        beta_d, beta_min = self.config["beta_d"], self.config["beta_min"]
        grown = (beta_min**2 + 2 * beta_d * sigma.square().log1p()).sqrt()
        # the difference of two near numbers at low noise, written without it
        time = 2 * sigma.square().log1p() / (grown + beta_min)
        result: Tensor = (self.config["M"] - 1) * time
        return result


def _levels(config: Mapping[str, Any]) -> list[float]:
    """Return the noise levels u_0 > ... > u_{M-1} of iDDPM."""
    count, least, offset = config["M"], config["C_1"], config["C_2"]

    def kept(j: int) -> float:
        return math.sin(math.pi / 2 * j / (count * (offset + 1))) ** 2

    level, levels = 0.0, []
    for j in range(count, 0, -1):
        level = math.sqrt((level**2 + 1) / max(kept(j - 1) / kept(j), least) - 1)
        levels.append(level)
    return levels[::-1]
