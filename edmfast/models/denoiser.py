"""The ordinary denoiser of EDM around a backbone, D(x, sigma) = c_skip x + c_out backbone(c_in x, c_noise).

The coefficients are those of `edmfast.models.preconditioning`. Such a denoiser has no energy; it serves as a
teacher and as a baseline. Source: Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edmfast._internal.rows import pad_rows, shared_names, without_padding
from edmfast.models.backbones.embedding import check_conditions_of
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.preconditioning import (
    check_sigma_data,
    noise_levels,
    refuse_zero,
    shared_scaling,
)


class Denoiser(nn.Module):
    """An ordinary EDM denoiser, D(x, sigma) = c_skip x + c_out backbone(c_in x, c_noise), such as a teacher.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.

    Args:
        backbone: called as backbone(y [B, *shape], c_noise [B], **condition), returns a tensor like y.
        sigma_data: standard deviation of the data, in the units of x.

    Raises:
        ValueError: a sigma_data that is not positive.
    """

    def __init__(self, backbone: nn.Module, *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = check_sigma_data(sigma_data)
        self.backbone = backbone

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Return the denoised states x0, like x.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: keyword arguments of the backbone; see `EnergyModel` for their shapes.

        Raises:
            TypeError: an x that is not floating, or a backbone that returns no floating tensor.
            ValueError: other shapes, a level that is not positive, or conditions with another number of rows.
        """
        batch, levels = x.shape[0], noise_levels(x, sigma)
        refuse_zero(self, sigma)
        # errors name the caller's sizes, so the checks come before the padding
        check_conditions_of(self.backbone, condition, batch)
        x, levels, condition = pad_rows(x, levels, condition, shared_names(self.backbone))
        _, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
        c_noise = scaling.c_noise.expand(x.shape[0])
        output = call_backbone(self.backbone, scaling.c_in * x, c_noise, **condition)
        denoised: torch.Tensor = scaling.c_skip * x + scaling.c_out * output
        return without_padding(denoised, batch)
