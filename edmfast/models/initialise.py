"""Start an energy from a denoiser's weights.

The gradient of <h(y), y> is h + J_hᵀ y, which is 2h where h is linear with a symmetric Jacobian
and about h where it is flat. So after copying the teacher's backbone the potential is scaled by a
scalar per noise level, the least-squares fit of scale·grad f to the teacher's F, within [1/2, 1]:
  scale = <grad f, F>/<grad f, grad f>,  F = (D_teacher - c_skip x)/c_out.
Source of the copied start: Thornton et al. 2025, arXiv 2502.12786.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_seed
from edmfast.models.calling.foreign import call_backbone, call_denoiser, name_of
from edmfast.models.energy import Denoiser, EnergyModel
from edmfast.models.preconditioning import edm_scaling, expand_sigma


def initialise_from(
    model: EnergyModel,
    teacher: Any,
    data: torch.Tensor,
    *,
    seed: int = 0,
    weights_from: nn.Module | None = None,
    **condition: Any,
) -> EnergyModel:
    """Copy the teacher's backbone into model and fit the scale table; returns model, changed.

    teacher: a `Denoiser`, or any denoiser(x, sigma [B], **condition) -> x0. weights_from: the module whose weights
    are copied; by default the teacher's `backbone`, which a denoiser of another package does not have.
    data: one batch [B, *shape] of clean samples (a few hundred do); condition: as the models take
    it, for that batch. Raises ValueError unless the potential is "inner", both have the same
    sigma_data and backbones of the same architecture, and data is a finite floating batch; TypeError for a
    teacher without a backbone where weights_from is not given.
    """
    source = getattr(teacher, "backbone", None) if weights_from is None else weights_from
    if not isinstance(source, nn.Module):
        raise TypeError(
            f"{name_of(teacher)} has no backbone whose weights could be copied: give "
            "weights_from=the module whose state_dict fits the backbone of the energy"
        )
    if model.potential_name != "inner":
        raise ValueError(f'only potential="inner" can start so, given "{model.potential_name}"')
    if isinstance(teacher, Denoiser) and model.sigma_data != teacher.sigma_data:
        raise ValueError(
            f"sigma_data must agree, given {model.sigma_data} and {teacher.sigma_data}"
        )
    if len(data) == 0 or not data.isfinite().all():
        raise ValueError("data must be a finite batch of at least one sample")
    try:
        model.backbone.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"the two backbones differ: {error}") from error
    draws = generator(as_seed(seed), data.device)
    model.scale.values.fill_(1.0)
    fitted = []
    for sigma in model.scale.sigmas:
        noise = torch.randn(data.shape, generator=draws, dtype=data.dtype, device=data.device)
        fitted.append(_fit(model, teacher, data + sigma * noise, sigma, condition))
    model.scale.values.copy_(torch.stack(fitted))
    return model


def _fit(
    model: EnergyModel,
    teacher: Any,
    x: torch.Tensor,
    sigma: float,
    condition: dict[str, Any],
) -> torch.Tensor:
    """The scale at one noise level."""
    scaling = edm_scaling(expand_sigma(sigma, x), model.sigma_data)
    y = scaling.c_in * x
    with torch.no_grad():
        if isinstance(teacher, Denoiser):
            target = call_backbone(teacher.backbone, y, scaling.c_noise, **condition)
        else:
            denoised = call_denoiser(teacher, x, sigma, **condition)
            target = (denoised - scaling.c_skip * x) / scaling.c_out
    with torch.enable_grad():
        y.requires_grad_()
        f = model.potential(y, scaling.c_noise, **condition)
        (slope,) = torch.autograd.grad(f.sum(), y)
    squared = slope.square().sum()
    # A zero last layer has no slope to scale: any value fits, so keep 1.
    scale = torch.where(squared > 0, (slope * target).sum() / squared, torch.ones_like(squared))
    return scale.clamp(0.5, 1.0)
