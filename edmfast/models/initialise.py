"""Initialisation of an energy from the weights of a denoiser.

The gradient of <h(y), y> is h + J_hᵀ y. It equals 2h where h is linear with a symmetric Jacobian, and about h
where h is flat. So after the teacher's backbone has been copied, the potential is multiplied by one scalar per
noise level, the least-squares fit of scale·grad f to the teacher's network F, clamped to [1/2, 1]:
  scale = <grad f, F>/<grad f, grad f>,  F = (D_teacher - c_skip x)/c_out.
Source of the copied start: Thornton et al. 2025, arXiv 2502.12786.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_seed
from edmfast.models import protocols
from edmfast.models.calling.foreign import call_backbone, call_denoiser, name_of
from edmfast.models.denoiser import Denoiser
from edmfast.models.energy import EnergyModel
from edmfast.models.preconditioning import edm_scaling, expand_sigma
from edmfast.models.saving.fit import check_state


def initialise_from(
    model: EnergyModel,
    teacher: protocols.Denoiser,
    data: torch.Tensor,
    *,
    seed: int = 0,
    weights_from: nn.Module | None = None,
    **condition: Any,
) -> EnergyModel:
    """Copy the teacher's weights into model, fit its scale table, and return the changed model.

    Dropout is off during the fit, whatever the modes of teacher and model.

    Source of the copied start: Thornton et al. 2025, arXiv 2502.12786.

    Args:
        model: an energy with potential="inner".
        teacher: a `Denoiser`, or any denoiser(x [B, *shape], sigma [B], **condition) -> x0.
        data: one batch [B, *shape] of clean samples, in the units of sigma_data. A few hundred samples are enough.
        seed: 64 bits for the noise of the fit.
        weights_from: the module whose state dictionary is copied into the model's backbone. The default is the
            teacher's attribute `backbone`, which denoisers of other packages do not have.
        condition: conditions of model and teacher for that batch.

    Raises:
        TypeError: a teacher without a backbone where weights_from is not given.
        ValueError: another potential than "inner", models that differ in sigma_data or architecture, or data that
            is not a finite batch of at least one sample.
    """
    source = getattr(teacher, "backbone", None) if weights_from is None else weights_from
    if not isinstance(source, nn.Module):
        raise TypeError(
            f"{name_of(teacher)} has no attribute backbone with weights to copy: pass weights_from=the module "
            "whose state_dict fits the backbone of the energy"
        )
    if model.potential_name != "inner":
        raise ValueError(
            f'only potential="inner" can start from a denoiser, given "{model.potential_name}"'
        )
    if isinstance(teacher, Denoiser) and model.sigma_data != teacher.sigma_data:
        raise ValueError(
            f"model and teacher must have the same sigma_data, given {model.sigma_data} and {teacher.sigma_data}"
        )
    if len(data) == 0 or not data.isfinite().all():
        infinite = int((~data.isfinite()).sum())
        raise ValueError(
            f"data must be a finite batch [B, *shape] of at least one sample, given {[*data.shape]} with "
            f"{infinite} numbers that are not finite"
        )
    state = source.state_dict()
    try:
        check_state(
            model.backbone.state_dict(), state, source="the teacher", owner="the energy's backbone"
        )
        model.backbone.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the backbones of model and teacher must agree: {error}") from error
    # a generator of its own leaves the program's random numbers as they are
    draws = generator(as_seed(seed), data.device)
    # the fit measures the unscaled potential
    model.scale.values.fill_(1.0)
    fitted = []
    with in_eval_mode(model, teacher):
        for sigma in model.scale.sigmas:
            noise = torch.randn(data.shape, generator=draws, dtype=data.dtype, device=data.device)
            fitted.append(_fit(model, teacher, data + sigma * noise, sigma, condition))
    model.scale.values.copy_(torch.stack(fitted))
    return model


def _fit(
    model: EnergyModel,
    teacher: protocols.Denoiser,
    x: torch.Tensor,
    sigma: float,
    condition: dict[str, Any],
) -> torch.Tensor:
    """Return the fitted scale [] at one noise level."""
    scaling = edm_scaling(expand_sigma(sigma, x), model.sigma_data)
    y = scaling.c_in * x
    with torch.no_grad():
        if isinstance(teacher, Denoiser):
            target = call_backbone(teacher.backbone, y, scaling.c_noise, **condition)
        else:
            denoised = call_denoiser(teacher, x, sigma, **condition)
            # a foreign denoiser has no network F, but its output determines F
            target = (denoised - scaling.c_skip * x) / scaling.c_out
    with torch.enable_grad():
        y.requires_grad_()
        f = model.potential(y, scaling.c_noise, **condition)
        (slope,) = torch.autograd.grad(f.sum(), y)
    squared = slope.square().sum()
    # a last layer of zeros has no slope, so that every scale fits: keep 1
    scale = torch.where(squared > 0, (slope * target).sum() / squared, torch.ones_like(squared))
    return scale.clamp(0.5, 1.0)


@contextmanager
def in_eval_mode(*models: Any) -> Iterator[None]:
    """Turn off dropout within the block; each module gets its own mode back."""
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
