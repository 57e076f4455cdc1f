"""Pairwise sample optimisation (PSO) of a few-step model on pairs of its own samples.

A model of T steps goes from sigma_0 z to a sample by x_{i+1} = D(x_i; sigma_i) + sigma_{i+1} eps, that is by a
Gaussian policy with density pi(x_{i+1} | x_i) = N(D(x_i; sigma_i), sigma_{i+1}² I). A training step draws two
trajectories for each condition. The one with the higher reward is the winner w, the other one the loser l. The
loss is the mean over pairs and over the steps that end at a positive level of

    -ln sigmoid(beta (ln clip(rho_w, 1 ± clip) - ln clip(rho_l, 1 ± clip))),    rho = pi_student/pi_reference,

where ln pi is the mean, not the sum, over the elements of a sample. Outside the clip a trajectory has no gradient.
The larger beta, the sooner the sigmoid saturates, and the nearer the student stays to its reference. At the
reference the loss is ln 2, and its gradient with respect to a denoised state that both trajectories share is
-(beta/2) (x_w - x_l)/(sigma² d).

Source: Miao et al. 2024, "Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization",
arXiv 2410.03190, in variance-exploding notation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edmfast._internal.json_text import shortened
from edmfast._internal.noise_levels import check_order, check_squares
from edmfast._internal.numbers import as_float, as_numbers, as_shape
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.objectives.prompts import Prompts
from edmfast.distill.objectives.pso_batch import PSOBatches
from edmfast.distill.objectives.reference import Reference
from edmfast.distill.objectives.training import check_student, train_objective
from edmfast.distill.recording import Logger
from edmfast.distill.trainer import DistillResult
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser

# the configuration is frozen, so that one object can serve as the default
_DEFAULTS = DistillConfig()


class PSOLoss(TrainingLoss):
    """The loss of PSO on pairs of trajectories, as a module for any training loop.

    Source: Miao et al. 2024, arXiv 2410.03190.

    Args:
        student: the few-step model that is trained.
        beta: the factor on the difference of log-ratios.
        clip: the largest distance of a ratio from 1, below 1; the gradient vanishes beyond it.
        autocast: the dtype of matrix products, as in torch.autocast; None for that of the weights.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        beta: float = 50.0,
        clip: float = 0.1,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(student, 0.0, autocast)
        self.beta = as_float("beta", beta, positive=True)
        self.clip = as_float("clip", clip, positive=True)
        if self.clip >= 1:
            raise ValueError(f"clip must be below 1, given {self.clip:g}")

    def loss_of(self, batch: Batch) -> Tensor:
        """Return the loss [] of a batch of B pairs over S steps.

        batch: x, next and reference [B, 2, S, *shape], of which the first of two is the winner: the states before
        and after a step, and the denoised states of the reference before it; levels and next_levels [B, 2, S], the
        noise levels of both; decided [B], 0 for pairs of equal rewards, which do not count; class_label int64 [B]
        where there are labels.
        """
        x = batch["x"].flatten(0, 2).detach().requires_grad_()
        steps = batch["x"].shape[1] * batch["x"].shape[2]
        condition: dict[str, Any] = {}
        if "class_label" in batch:
            condition["class_label"] = batch["class_label"].repeat_interleave(steps)
        denoised = call_denoiser(self.student, x, batch["levels"].flatten(), **condition)
        ratios = log_ratio(
            batch["next"],
            denoised.view(batch["x"].shape),
            batch["reference"],
            batch["next_levels"],
        )
        clipped = ratios.clamp(math.log1p(-self.clip), math.log1p(self.clip))
        logits = self.beta * (clipped[:, 0] - clipped[:, 1])
        losses = nn.functional.softplus(-logits).mean(1)
        return (losses * batch["decided"]).mean()


def log_ratio(following: Tensor, denoised: Tensor, reference: Tensor, sigma: Tensor) -> Tensor:
    """Return ln N(following; denoised, sigma² I) - ln N(following; reference, sigma² I) per element, [B, 2, S].

    following, denoised, reference: [B, 2, S, *shape]. sigma: [B, 2, S].
    """
    # one product of differences keeps the digits that a difference of two squares would lose
    products = (denoised - reference) * (2 * following - denoised - reference)
    return products.flatten(3).mean(3) / (2 * sigma.square())


def train_pso(
    student: nn.Module,
    reward: Callable[..., Tensor],
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    reference: Denoiser | None = None,
    labels: Tensor | None = None,
    beta: float = 50.0,
    clip: float = 0.1,
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
) -> DistillResult:
    """Train a few-step model towards a higher reward, on pairs of its own samples.

    Each training step draws config.batch_size pairs of trajectories from the current student. The student is
    changed in place, and its weights at the end are the running average of the run. Checkpoints, interrupts and
    resuming are those of `distill`. The published runs train adapters of rank 16 or 32 by Adam with learning rate
    1e-5.

    Source: Miao et al. 2024, arXiv 2410.03190.

    Args:
        student: a Denoiser, an EnergyModel or another module with sigma_data, which samples well in few steps.
        reward: a function of samples [n, *shape] that returns one number for each, [n]. It receives class_label
            int64 [n] as a keyword where there are labels.
        shape: the shape of one sample.
        sigmas: the noise levels of the model's steps [T + 1], strictly decreasing, of which the last may be 0. A
            step that ends at 0 is deterministic, so that it has no density and no loss.
        reference: the frozen model to stay near. None is the student without its adapters where it has a method
            disable_adapter(), and else a copy of the student at the start; a resumed run must start from a student
            with the same weights.
        labels: int64 [n], from which the condition class_label of each pair is drawn; None for no condition.
        beta: the factor on the difference of log-ratios.
        clip: the largest distance of a ratio of densities from 1, below 1.
        config: the settings of the run. mode, the noise levels and label_dropout have no effect.
        resume_from: a checkpoint of this very run.
        progress: show a bar, or a line now and then where stderr is no terminal.
        overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint.
        group: a process group of torch.distributed, whose ranks evaluate parts of every batch; see `distill`.
        loggers: receivers of the measures of the run; see `distill`.

    Raises:
        TypeError: a student, reward, labels or numbers of another kind, before any work is done.
        ValueError: noise levels without a step that ends above 0, settings or checkpoints that do not fit each
            other, or rewards of another shape; config.shard, since batches come from the whole student.
        FileExistsError: a file of another run at config.checkpoint, without overwrite.
        FloatingPointError: a loss or gradient that is not finite; the error names the step.
        KeyboardInterrupt: an interrupt of the program, after the checkpoint is saved.
    """
    parameter = check_student(student, config)
    if not callable(reward):
        raise TypeError(f"reward must be a function of samples, given {type(reward).__name__}")
    if config.shard:
        raise ValueError(
            "config.shard must be False for train_pso, whose batches are samples of the whole student, given True"
        )
    levels = few_step_levels(sigmas, parameter.dtype)
    loss = PSOLoss(student, beta=beta, clip=clip, autocast=config.autocast_dtype)
    if labels is not None:
        labels = check_labels(labels, student).to(parameter.device)
    prompts = Prompts(labels, as_shape("shape", shape), parameter.dtype, parameter.device)
    batches = PSOBatches(
        prompts, student, Reference(reference, student, group), reward, levels, config
    )
    objective = {"name": "pso", "beta": loss.beta, "clip": loss.clip, "sigmas": levels}
    return train_objective(
        student,
        batches,
        loss,
        config,
        objective,
        resume_from=resume_from,
        progress=progress,
        overwrite=overwrite,
        group=group,
        loggers=loggers,
    )


def few_step_levels(sigmas: Tensor | Sequence[float], dtype: torch.dtype) -> list[float]:
    """Return the noise levels of a few-step model as floats, with at least one step that ends above 0."""
    levels: list[float] = as_numbers("sigmas", sigmas).tolist()
    if len(levels) < 2 or levels[1] <= 0:
        raise ValueError(
            f"sigmas must be at least two positive levels, of which the last may be followed by 0, given {levels}"
        )
    check_order(levels)
    if levels[-1] < 0:
        raise ValueError(f"sigmas must not be negative, given {levels[-1]:g}")
    check_squares(levels, dtype)
    return levels


def check_labels(labels: Tensor, student: nn.Module) -> Tensor:
    """Return labels int64 [n]. Raises TypeError or ValueError for others, or where the student takes none."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = getattr(labels, "dtype", None) or shortened(labels)
        raise TypeError(f"labels must be an int64 tensor, given {kind}")
    if labels.dim() != 1 or len(labels) == 0:
        raise ValueError(f"labels must be [n] with n >= 1, given {[*labels.shape]}")
    check_accepted(student, ["class_label"], f"the student {type(student).__name__}")
    return labels
