"""The training loss of a model with two heads, a denoiser F and an energy <h, y>, from one call of the network.

loss = mean |F - F_target|² + energy_weight mean |grad_y <h, y> - sg[F]|² + the other losses of energies

The first term is the denoising loss in the units of the network, so that its weight is that of Karras et al. 2022
(arXiv 2206.00364): denoising score matching without a teacher, and distillation with one. The second is the
distillation loss of Thornton et al. 2025 (arXiv 2502.12786) with the head of scores as a teacher that learns at
the same time. sg stops the gradient: scores must not follow the energy. The head of scores has no conditional
variance of clean data in it, so that the energy sees less noise than by score matching of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast.distill.batch import Batch, condition_of
from edmfast.distill.config import DistillConfig
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.time_score import slope_of_inner, time_score_loss
from edmfast.models.preconditioning import edm_scaling, expand_sigma
from edmfast.models.two_heads import TwoHeads


class TwoHeadsLoss(TrainingLoss):
    """The training loss of a `TwoHeads` as a module; see the top of this module for its terms."""

    def __init__(self, student: TwoHeads, config: DistillConfig) -> None:
        super().__init__(
            student,
            config.difference_weight,
            config.autocast_dtype,
            config.value_weight,
            config.fokker_planck_weight,
            config.time_score_weight,
        )
        self.energy_weight = config.energy_weight

    def fit_of(self, batch: Batch) -> Tensor:
        """Return the loss [] of both heads, to which the losses of energies are added."""
        student: Any = self.student
        return two_heads_loss(student, batch, self.energy_weight, self.time_score_weight)


def two_heads_loss(
    student: TwoHeads, batch: Batch, energy_weight: float, time_score_weight: float = 0.0
) -> Tensor:
    """Return the first three terms of the loss, []."""
    x = batch["x"].detach()
    scaling = edm_scaling(expand_sigma(batch["sigma"], x), student.sigma_data)
    y = (scaling.c_in * x).requires_grad_()
    c_noise = scaling.c_noise.requires_grad_(time_score_weight > 0)
    score_head, energy_head = student.heads(y, c_noise, **condition_of(batch))
    score_head, energy_head = score_head.to(y.dtype), energy_head.to(y.dtype)
    target = (batch["target"] - scaling.c_skip * x) / scaling.c_out
    # grad <h, y> = h + J_hᵀ y, whose second term is the backward pass of the cotangent y
    states = (y, c_noise) if time_score_weight > 0 else (y,)
    pullback, *slopes = torch.autograd.grad(
        energy_head, states, y.detach(), create_graph=True, materialize_grads=True
    )
    gradient = energy_head + pullback
    error = (gradient - score_head.detach()).square().mean()
    loss = (score_head - target).square().mean() + energy_weight * error
    if time_score_weight == 0:
        return loss
    y = y.detach()
    potential = (energy_head * y).flatten(1).sum(1)
    slope = slope_of_inner(potential, gradient, slopes[0], y, scaling, batch["sigma"])
    return loss + time_score_weight * time_score_loss(slope, batch["noise_excess"])
