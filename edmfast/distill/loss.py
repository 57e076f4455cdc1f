"""The training losses of a denoiser or an energy.

The denoising loss is the mean over batch and elements of lambda(sigma) (D_student - target)², with
lambda = (sigma² + sigma_data²)/(sigma sigma_data)². For an energy, D contains a gradient, so that the minimiser is
the projection of the teacher's field onto gradient fields (Thornton et al. 2025, arXiv 2502.12786). The weight is
that of Karras et al. 2022, arXiv 2206.00364, table 1.

The energy-difference loss is the variance over noising pairs of -(E(x_to, u) - E(x_from, s)) - target, within each
group of the batch. It is a variance because an energy is known up to a constant per noise level and class, and
constants drop out of it. The value loss is the mean over noise levels of the variance of -E(x, sigma) - value,
where the value is the teacher's log-density up to a constant. Neither needs a derivative of E with respect to x.
The loss of time scores, sigma dE/dsigma on data, is in `edmfast.distill.time_score`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from edmfast.distill.batch import VALUE_LEVELS, Batch, condition_of, value_condition_of
from edmfast.distill.covariance import variance_within
from edmfast.distill.fokker_planck_loss import fokker_planck_loss
from edmfast.distill.time_score import slope_and_denoised, time_score_loss
from edmfast.models.calling.foreign import call_denoiser, energy_of
from edmfast.models.patching.dropout import of_rows, seeded_dropout
from edmfast.models.preconditioning import expand_sigma


class TrainingLoss(nn.Module):
    """The training loss as a module around the student, so that all methods of the student can be traced.

    autocast: the dtype of the student's matrix products, as in torch.autocast; None for that of its weights.
    """

    def __init__(
        self,
        student: nn.Module,
        difference_weight: float,
        autocast: torch.dtype | None = None,
        value_weight: float = 0.0,
        fokker_planck_weight: float = 0.0,
        time_score_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.difference_weight, self.value_weight = difference_weight, value_weight
        self.fokker_planck_weight = fokker_planck_weight
        self.time_score_weight = time_score_weight
        self.autocast = autocast

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the loss [] of a batch."""
        # dropout must not draw from torch's generator, which no checkpoint holds
        seeds, nothing = batch.get("dropout_seeds"), contextlib.nullcontext()
        with nothing if seeds is None else seeded_dropout(seeds), self._precision(batch):
            return self.loss_of(batch)

    def loss_of(self, batch: Batch) -> torch.Tensor:
        """Return the loss [] of a batch in the precision and with the dropout of the caller."""
        loss = self.fit_of(batch)
        if self.difference_weight > 0:
            loss = loss + self.difference_weight * difference_loss(self.student, batch)
        if self.value_weight > 0:
            loss = loss + self.value_weight * value_loss(self.student, batch)
        if self.fokker_planck_weight > 0:
            loss = loss + self.fokker_planck_weight * fokker_planck_loss(self.student, batch)
        return loss

    def fit_of(self, batch: Batch) -> torch.Tensor:
        """Return the loss [] of the student's scores, to which the other losses of energies are added."""
        if self.time_score_weight == 0:
            return denoising_loss(self.student, batch)
        return both_scores_loss(self.student, batch, self.time_score_weight)

    def _precision(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()  # an autocast of the caller stays in force
        # the cache of casts would be kept by a trace, and would link the derivatives of one step to the next
        device = next(iter(batch.values())).device.type
        return torch.autocast(device, self.autocast, cache_enabled=False)


def denoising_loss(student: Any, batch: Batch) -> torch.Tensor:
    """Return the lambda-weighted mean squared error [] of the denoiser of a student that has a sigma_data."""
    # an energy records the graph of its score only where x requires grad
    x = batch["x"].detach().requires_grad_()
    denoised = call_denoiser(student, x, batch["sigma"], **condition_of(batch))
    return _weighted_error(denoised, batch, student.sigma_data)


def both_scores_loss(student: Any, batch: Batch, time_score_weight: float) -> torch.Tensor:
    """Return the denoising loss plus time_score_weight times that of the slope in sigma, [].

    Both share the passes of the network.
    """
    condition = condition_of(batch)
    slope, denoised = slope_and_denoised(student, batch["x"], batch["sigma"], condition)
    time_score = time_score_loss(slope, batch["noise_excess"])
    return _weighted_error(denoised, batch, student.sigma_data) + time_score_weight * time_score


def _weighted_error(denoised: torch.Tensor, batch: Batch, sigma_data: float) -> torch.Tensor:
    sigma = expand_sigma(batch["sigma"], denoised)
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return (weight * (denoised - batch["target"]).square()).mean()


def difference_loss(student: Any, batch: Batch) -> torch.Tensor:
    """Return the mean over groups of the variance [], in nats², of the error of -ΔE over the noising pairs."""
    start, to = batch["pair_from"].flatten(0, 1), batch["pair_to"].flatten(0, 1)
    target, label = batch["pair_target"], batch.get("pair_label")
    size, pairs = start.shape[0], target.shape[1]
    levels = (batch["pair_sigma_to"], batch["pair_sigma_from"])
    condition = {} if label is None else {"class_label": label.flatten().repeat(2)}
    # both ends of a pair have the mask of dropout of its row, since their difference is that of one network
    seeds = _seeds_of(batch, len(target), pairs)
    # both ends of the pairs go through the network as one batch
    with of_rows(None if seeds is None else seeds.repeat(2)):
        energies = energy_of(
            student,
            torch.cat([to, start]),
            torch.cat([level[:, None].expand(-1, pairs).flatten() for level in levels]),
            **condition,
        )
    error = (energies[size:] - energies[:size]).view(target.shape) - target
    return variance_within(error, label).mean()


def value_loss(student: Any, batch: Batch) -> torch.Tensor:
    """Return the mean over noise levels of the variance [], in nats², of the error of -E over the states there."""
    target = batch["value_target"]
    condition = value_condition_of(batch)
    levels, states = target.shape
    with of_rows(_seeds_of(batch, levels // VALUE_LEVELS, VALUE_LEVELS * states)):
        energies = energy_of(student, batch["value_x"], batch["value_sigma"], **condition)
    error = -energies.view(target.shape) - target
    return variance_within(error, batch.get("value_label")).mean()


def _seeds_of(batch: Batch, groups: int, rows: int) -> torch.Tensor | None:
    """Return the seeds of dropout of the first rows of each group, int64 [groups rows], or None without seeds."""
    seeds = batch.get("dropout_seeds")
    # masks that followed the place within a part of the batch would depend on the number of parts
    return None if seeds is None else seeds.unflatten(0, (groups, -1))[:, :rows].flatten()
