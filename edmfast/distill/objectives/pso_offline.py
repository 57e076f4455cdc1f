"""Pairwise sample optimisation (PSO) of a few-step model on given pairs of a better and a worse sample.

With L = mean over elements of (D(x_0 + sigma n; sigma) - x_0)²/sigma² for the winner w and the loser l at one
level and with one noise n, and a weight k on the loser's term, the loss is the mean over pairs of

    -ln sigmoid(beta m),    m = (L_ref^w - k L_ref^l) - (L^w - k L^l),          loss="logistic",
    max(0, 1 - beta m),     m = -(L^w - k L^l), without a reference,            loss="hinge".

prior_weight adds that multiple of the mean of L^l, so that the student does not forget the losers, which are
samples of the reference. At the reference the logistic loss is ln 2.

Source: Miao et al. 2024, "Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization",
arXiv 2410.03190, in variance-exploding notation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edmfast._internal.numbers import as_float
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.objectives.preferences import OfflineBatches, Preferences
from edmfast.distill.objectives.pso import check_labels, few_step_levels
from edmfast.distill.objectives.reference import Reference
from edmfast.distill.objectives.training import check_student, train_objective
from edmfast.distill.recording import Logger
from edmfast.distill.trainer import DistillResult
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser

LOSSES = ("logistic", "hinge")

# the configuration is frozen, so that one object can serve as the default
_DEFAULTS = DistillConfig()


class OfflinePSOLoss(TrainingLoss):
    """The loss of PSO on pairs of a better and a worse sample, as a module for any training loop.

    Source: Miao et al. 2024, arXiv 2410.03190.

    Args:
        student: the few-step model that is trained.
        beta: the factor on the margin m.
        loser_weight: k, the weight of the loser's term, at least 0.
        prior_weight: the weight of the mean of the losers' loss, at least 0.
        loss: "logistic", or "hinge" without a reference.
        autocast: the dtype of matrix products, as in torch.autocast; None for that of the weights.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        beta: float = 50.0,
        loser_weight: float = 1.0,
        prior_weight: float = 0.0,
        loss: str = "logistic",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(student, 0.0, autocast)
        self.beta = as_float("beta", beta, positive=True)
        self.loser_weight = as_float("loser_weight", loser_weight, least=0)
        self.prior_weight = as_float("prior_weight", prior_weight, least=0)
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, given {loss!r}")
        self.loss = loss

    def loss_of(self, batch: Batch) -> Tensor:
        """Return the loss [] of a batch of B pairs.

        batch: x and target [B, 2, *shape], of which the first of two is the winner; sigma [B]; reference like
        target, the reference's denoised states, unless the loss is "hinge"; class_label int64 [B] where there are
        labels.
        """
        target, sigma = batch["target"], batch["sigma"]
        x = batch["x"].flatten(0, 1).detach().requires_grad_()
        condition: dict[str, Any] = {}
        if "class_label" in batch:
            condition["class_label"] = batch["class_label"].repeat_interleave(2)
        denoised = call_denoiser(self.student, x, sigma.repeat_interleave(2), **condition)
        losses = weighted_losses(denoised.view(target.shape), target, sigma)
        margin = -self._difference(losses)
        if self.loss == "hinge":
            values = (1 - self.beta * margin).relu()
        else:
            margin = margin + self._difference(weighted_losses(batch["reference"], target, sigma))
            values = nn.functional.softplus(-self.beta * margin)
        return (values + self.prior_weight * losses[:, 1]).mean()

    def _difference(self, losses: Tensor) -> Tensor:
        return losses[:, 0] - self.loser_weight * losses[:, 1]


def weighted_losses(denoised: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean over elements of (denoised - target)²/sigma², [B, 2], of tensors [B, 2, *shape]."""
    return (denoised - target).square().flatten(2).mean(2) / sigma.square()[:, None]


def train_pso_offline(
    student: nn.Module,
    winners: Tensor,
    losers: Tensor,
    *,
    sigmas: Tensor | Sequence[float] | None = None,
    reference: Denoiser | None = None,
    labels: Tensor | None = None,
    beta: float = 50.0,
    loser_weight: float = 1.0,
    prior_weight: float = 0.0,
    loss: str = "logistic",
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
) -> DistillResult:
    """Train a few-step model on given pairs of a better and a worse sample.

    The losers are usually samples of the model itself, and the winners samples of a new style or subject, or the
    preferred ones of two. The student is changed in place, and its weights at the end are the running average of
    the run. Checkpoints, interrupts and resuming are those of `distill`. The published runs on a new subject use
    the hinge loss with beta 5 and prior_weight 0.5.

    Source: Miao et al. 2024, arXiv 2410.03190.

    Args:
        student: a Denoiser, an EnergyModel or another module with sigma_data, which samples well in few steps.
        winners: the better samples [n, *shape], in the dtype of the student.
        losers: the worse samples, like winners; row k of both is a pair.
        sigmas: the noise levels of the model's steps, strictly decreasing, of which the last may be 0. Each pair
            is noised to one of the positive ones. None draws levels by config.p_mean and config.p_std.
        reference: the frozen model to stay near. None is the student without its adapters where it has a method
            disable_adapter(), and else a copy of the student at the start; a resumed run must start from a student
            with the same weights. The hinge loss needs none.
        labels: int64 [n], one class for each pair, or None.
        beta: the factor on the margin.
        loser_weight: the weight of the loser's term in the margin.
        prior_weight: the weight of the losers' own loss, which keeps them probable.
        loss: "logistic" or "hinge".
        config: the settings of the run. mode, noise_dof and label_dropout have no effect.
        resume_from: a checkpoint of this very run.
        progress: show a bar, or a line now and then where stderr is no terminal.
        overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint.
        group: a process group of torch.distributed, whose ranks evaluate parts of every batch; see `distill`.
        loggers: receivers of the measures of the run; see `distill`.

    Raises:
        TypeError: a student, samples, labels or numbers of another kind, before any work is done.
        ValueError: samples, settings or checkpoints that do not fit each other, before any work is done.
        FileExistsError: a file of another run at config.checkpoint, without overwrite.
        FloatingPointError: a loss or gradient that is not finite; the error names the step.
        KeyboardInterrupt: an interrupt of the program, after the checkpoint is saved.
    """
    parameter = check_student(student, config)
    samples = {"winners": winners, "losers": losers}
    for name, value in samples.items():
        if not isinstance(value, Tensor) or value.dtype != parameter.dtype:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{name} must have the dtype of the student's parameters, {parameter.dtype}, given {kind}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, given NaN or infinity in them")
    if winners.dim() < 2 or len(winners) == 0 or winners.shape != losers.shape:
        raise ValueError(
            f"winners and losers must be [n, *shape] with n >= 1 and equal shapes, given {[*winners.shape]} and "
            f"{[*losers.shape]}"
        )
    if labels is not None:
        labels = check_labels(labels, student).to(parameter.device)
        if len(labels) != len(winners):
            raise ValueError(f"labels must be [n] = [{len(winners)}], given {[*labels.shape]}")
    levels = None
    if sigmas is not None:
        levels = [sigma for sigma in few_step_levels(sigmas, parameter.dtype) if sigma > 0]
    settings: dict[str, Any] = {"beta": beta, "loser_weight": loser_weight}
    settings |= {"prior_weight": prior_weight, "loss": loss}
    module = OfflinePSOLoss(student, autocast=config.autocast_dtype, **settings)
    data = Preferences(torch.stack([winners, losers], 1).to(parameter.device), labels)
    frozen = Reference(reference, student, group) if loss == "logistic" else None
    if config.shard and frozen is not None and frozen.switch:
        raise ValueError(
            "config.shard must be False where the reference is the student without its adapters, given True: pass "
            "a reference of its own"
        )
    batches = OfflineBatches(data, student, frozen, levels, config)
    objective: dict[str, Any] = {"name": "pso-offline", "loss": module.loss, "sigmas": levels}
    for name in ("beta", "loser_weight", "prior_weight"):
        objective[name] = getattr(module, name)
    return train_objective(
        student,
        batches,
        module,
        config,
        objective,
        resume_from=resume_from,
        progress=progress,
        overwrite=overwrite,
        group=group,
        loggers=loggers,
    )
