"""The entry point `distill`: train an energy on a denoiser, or either of them on data alone.

Each step draws a batch, asks the frozen teacher for its denoised states x0, and regresses the student on them (see
`edmfast.distill.loss`). Then it clips the gradients, applies Adam and averages the weights. At the end the student
has the averaged weights.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.interrupts import warn_if_ignored
from edmfast.distill.batch import BatchMaker
from edmfast.distill.config import DistillConfig
from edmfast.distill.conservative import teacher_asymmetry, warn_of_asymmetry
from edmfast.distill.data import DataLike, check_data, warn_of_scale
from edmfast.distill.interrupt import deferred_interrupt
from edmfast.distill.parallel.replicas import before_run
from edmfast.distill.prepare import prepared_run
from edmfast.distill.recording import Logger
from edmfast.distill.teacher_and_student import check_models, training_modes, with_our_names
from edmfast.distill.two_heads import TwoHeadsLoss
from edmfast.models.protocols import Denoiser
from edmfast.models.two_heads import TwoHeads

# the configuration is frozen, so that one object can serve as the default
_DEFAULTS = DistillConfig()


@dataclasses.dataclass(frozen=True, repr=False)
class DistillResult:
    """The result of a distillation run.

    Attributes:
        model: the student with its averaged weights, in eval mode.
        losses: [steps], the loss of every step since the very first one, on the CPU.
        steps_per_second: the speed of this call without its first step, which may warm up and compile. NaN for
            fewer than two steps.
        checkpoint: the last checkpoint written, or the one resumed from where no step was left to do. None where
            there is neither.
        step: the number of steps done.
        teacher_asymmetry: for an energy that was distilled with the noise of PFGM++, the share NAsym of the
            antisymmetric part in the teacher's Jacobian, in [0, 1], which no energy can follow. None for Gaussian
            noise, for a student without an energy, and for a teacher without second derivatives.
    """

    model: nn.Module
    losses: torch.Tensor
    steps_per_second: float
    checkpoint: Path | None
    step: int
    teacher_asymmetry: float | None = None

    def __repr__(self) -> str:
        loss = f"{float(self.losses[-1]):.4g}" if len(self.losses) else "none"
        known = self.teacher_asymmetry is not None
        asymmetry = f", teacher asymmetry {self.teacher_asymmetry:.2g}" if known else ""
        return (
            f"DistillResult({type(self.model).__name__}, {self.step} steps, last loss {loss}, "
            f"{self.steps_per_second:.3g} steps/s, checkpoint {self.checkpoint}{asymmetry})"
        )


def distill(
    teacher: Denoiser | None,
    student: nn.Module,
    data: DataLike = None,
    *,
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    condition_names: Mapping[str, str] | None = None,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
) -> DistillResult:
    """Train a student on a teacher's denoiser (mode "distill") or on data alone (modes "dsm" and "two_heads").

    The student is changed in place, and its weights at the end are the running average of the run.

    With a process group, each rank evaluates a part of every batch, and the gradients are averaged. The result is
    that of one process with the same batch_size up to rounding, and a checkpoint resumes on any number of ranks.

    A KeyboardInterrupt first saves a checkpoint and says where it is. So does any other exception where the
    configuration names a checkpoint. A checkpoint that cannot be written does not end a run: there is a warning,
    and the last checkpoint goes to the folder for temporary files.

    Sources: Thornton et al. 2025, arXiv 2502.12786; Karras et al. 2022, arXiv 2206.00364.

    Args:
        teacher: a denoiser teacher(x [B, *shape], sigma [B], **condition) -> x0 like x, which is frozen. It may be
            None for the modes "dsm" and "two_heads".
        student: an `EnergyModel`, a `Denoiser` or another module with a sigma_data; a `TwoHeads` for mode
            "two_heads".
        data: clean samples [n, *shape] in the dtype of the student, or (samples, labels int64 [n]), or anything
            else that `open_data` accepts: arrays, data sets, iterables, and paths of images or files of arrays.
            Teacher and student both receive the labels as the condition class_label.
        config: the settings of the run; see `DistillConfig`.
        resume_from: a checkpoint of this very run. On the CPU, with the same number of threads, the result then
            equals that of an uninterrupted run bit for bit.
        progress: show a bar, or a line now and then where stderr is no terminal.
        condition_names: a mapping from our name of a condition to the teacher's, such as
            {"class_label": "class_labels"}.
        overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint, and
            remove snapshots of another run. The file that the run resumes from is always replaced.
        group: a process group of torch.distributed, such as torch.distributed.group.WORLD in a program that
            torchrun starts, or None for one process. All ranks call with the same arguments, each with the student
            on its own device. Rank 0 writes the checkpoints and shows the progress.
        loggers: callables logger(step, values) that receive loss, gradient norm, learning rate, speed, time left
            and memory every config.log_every steps, such as a `JsonLines("run.jsonl")`.

    Raises:
        TypeError: models or data of another kind, before any work is done.
        ValueError: models, data, settings or checkpoints that do not fit each other, before any work is done.
        FileExistsError: a file of another run at config.checkpoint, or snapshots of another run, without
            overwrite, before any work is done.
        FloatingPointError: a loss or gradient that is not finite; the error names the step.
        RuntimeError: another rank of the group stopped with an error, which is raised there.
        KeyboardInterrupt: an interrupt of the program, after the checkpoint is saved.

    Warns:
        NonConservativeWarning: an energy was distilled with finite config.noise_dof from a teacher whose field is
            noticeably no gradient.
    """
    # tensors made in inference mode could never have a gradient
    if torch.is_inference_mode_enabled():
        with without_inference_mode():
            return distill(
                teacher,
                student,
                data,
                config=config,
                resume_from=resume_from,
                progress=progress,
                condition_names=condition_names,
                overwrite=overwrite,
                group=group,
                loggers=loggers,
            )
    with before_run(group, student).together():
        check_models(teacher, student, config)
        training_data = check_data(data, student, config)
        named_teacher = with_our_names(teacher, student, training_data, condition_names)
        warn_of_scale(training_data, student, stacklevel=3)
        warn_if_ignored(stacklevel=3)
        make_batch = BatchMaker(training_data, named_teacher, config)
    loss = TwoHeadsLoss(student, config) if isinstance(student, TwoHeads) else None
    run = prepared_run(
        student,
        make_batch,
        config,
        loss=loss,
        resume_from=resume_from,
        overwrite=overwrite,
        group=group,
        loggers=loggers,
    )
    with training_modes(student, teacher), deferred_interrupt() as interrupt:
        speed = run.train(interrupt, progress)
        # the average is less noisy than the last weights
        run.state.use_ema()
        asymmetry = teacher_asymmetry(make_batch) if hasattr(student, "energy") else None
    warn_of_asymmetry(asymmetry, stacklevel=2)
    losses = run.state.losses.cpu()
    return DistillResult(student.eval(), losses, speed, run.written, run.state.step, asymmetry)
