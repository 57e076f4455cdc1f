"""The part of a run that all objectives share: checkpoints, resuming, the loop, and the averaged weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.interrupts import warn_if_ignored
from edmfast.distill.batch import BatchSource
from edmfast.distill.config import DistillConfig
from edmfast.distill.interrupt import deferred_interrupt
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.prepare import prepared_run
from edmfast.distill.recording import Logger
from edmfast.distill.teacher_and_student import training_modes
from edmfast.distill.trainer import DistillResult


def check_student(student: Any, config: Any) -> torch.nn.Parameter:
    """Return the first trained parameter, which sets dtype and device of the run.

    Raises TypeError for a student or a config of another kind, and ValueError for losses of energies, which only
    `distill` computes.
    """
    if not isinstance(config, DistillConfig):
        raise TypeError(
            "config must be a DistillConfig, for example DistillConfig(steps=1000), given "
            f"{type(config).__name__}"
        )
    if not isinstance(student, nn.Module) or not hasattr(student, "sigma_data"):
        raise TypeError(
            "the student must be a Denoiser, an EnergyModel or another module with sigma_data, given "
            f"{type(student).__name__}"
        )
    for name in ("difference_weight", "value_weight", "fokker_planck_weight", "time_score_weight"):
        if getattr(config, name) > 0:
            raise ValueError(
                f"config.{name} must be 0 here, since only distill has that loss, given {getattr(config, name):g}"
            )
    parameter = next((p for p in student.parameters() if p.requires_grad), None)
    if parameter is None:
        raise ValueError("the student has no parameter that requires grad: nothing to train")
    return parameter


def train_objective(
    student: nn.Module,
    batches: BatchSource,
    loss: TrainingLoss,
    config: DistillConfig,
    objective: dict[str, Any] | None,
    *,
    resume_from: str | os.PathLike[str] | None,
    progress: bool,
    overwrite: bool,
    group: dist.ProcessGroup | None,
    loggers: Sequence[Logger],
) -> DistillResult:
    """Train the student by a loss on batches, and return it with its averaged weights.

    objective: the name and the settings of the objective, which a checkpoint must share to be resumed; None where
        the student says them.
    """
    warn_if_ignored(stacklevel=4)
    with without_inference_mode():
        run = prepared_run(
            student,
            batches,
            config,
            loss=loss,
            resume_from=resume_from,
            overwrite=overwrite,
            group=group,
            loggers=loggers,
            objective=objective,
        )
        with training_modes(student, None), deferred_interrupt() as interrupt:
            speed = run.train(interrupt, progress)
        # the average is less noisy than the last weights
        run.state.use_ema()
    losses = run.state.losses.cpu()
    return DistillResult(student.eval(), losses, speed, run.written, run.state.step)
