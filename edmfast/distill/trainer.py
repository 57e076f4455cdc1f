"""Distil a denoiser into an energy, or train either from data alone.

Each step draws a batch, asks the frozen teacher for its denoised x0, regresses the student on it
(see `loss`), clips, applies Adam and averages the weights. The student ends with the average.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from edmfast._internal.atomic_write import check_checkpoint, write_or_fall_back
from edmfast._internal.file_kinds import TRAINING_CHECKPOINT
from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.interrupts import warn_if_ignored
from edmfast._internal.progress import progress_bar
from edmfast.distill.batch import Batch, BatchMaker, Teacher
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData, check_data, warn_of_scale
from edmfast.distill.first_batch import FIRST_ROWS, check_first_batch, data_digest, numbers_of
from edmfast.distill.gradients import gradient_function
from edmfast.distill.interrupt import Interrupt, deferred_interrupt
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.state import RunState
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.foreign import name_of
from edmfast.ops import rng_state
from edmfast.targets.renamed import Renamed

_DEFAULTS = DistillConfig()
_LOOK_EVERY = 20
"""Steps between looks at the losses where looking makes the host wait for the device."""


@dataclasses.dataclass(frozen=True, repr=False)
class DistillResult:
    """What a run leaves behind."""

    model: nn.Module
    """The student, with its averaged weights, in eval mode."""
    losses: torch.Tensor
    """[steps], of every step since the very first, on the CPU."""
    steps_per_second: float
    """Of this call, its first step (warm-up, compilation) left out; nan below two steps."""
    checkpoint: Path | None
    """The last checkpoint written, or the one resumed from if there was nothing left to do."""
    step: int
    """Steps done."""

    def __repr__(self) -> str:
        loss = f"{float(self.losses[-1]):.4g}" if len(self.losses) else "none"
        return (
            f"DistillResult({type(self.model).__name__}, {self.step} steps, last loss {loss}, "
            f"{self.steps_per_second:.3g} steps/s, checkpoint {self.checkpoint})"
        )


def distill(
    teacher: Teacher | None,
    student: nn.Module,
    data: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    *,
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    condition_names: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> DistillResult:
    """Train student, in place, on teacher's denoiser (mode "distill") or on data (mode "dsm").

    teacher: teacher(x [B, *shape], sigma [B], **condition) -> x0, frozen; may be None for "dsm".
    student: EnergyModel, Denoiser or any such module with a sigma_data. data: [n, *shape] in the
    dtype of the student, or (data, labels int64 [n]): teacher and student both get the labels
    as class_label.
    condition_names: maps our name of a condition to the teacher's, such as {"class_label": "class_labels"}.
    resume_from: a checkpoint of this very run; the result equals an uninterrupted run, bit for
    bit on the CPU with the same number of threads.

    Raises ValueError or TypeError for bad data, settings and checkpoints before any work is done;
    FloatingPointError, naming the step, when loss or gradient stop being finite.
    progress shows a bar, or a line now and then where stderr is no terminal.
    KeyboardInterrupt saves a checkpoint first and says where, and so does any other exception where the
    configuration names a checkpoint. A checkpoint that cannot be written does not end a run: it warns, and the
    last one goes to the folder for temporary files.
    overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint. Without
    it such a file raises FileExistsError before any work; the file that the run resumes from is always replaced.
    Source: Thornton et al. 2025, arXiv 2502.12786; Karras et al. 2022, arXiv 2206.00364.
    """
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
            )
    _check_models(teacher, student, config)
    training_data = check_data(data, student, config)
    asked = _named(teacher, student, training_data, condition_names)
    warn_of_scale(training_data.samples, student, stacklevel=3)
    path = None if config.checkpoint is None else Path(config.checkpoint)
    if path is not None:
        options: dict[str, Any] = {"resume_name": "resume_from", "overwrite": overwrite}
        check_checkpoint(path, TRAINING_CHECKPOINT, resume_from, **options)
    warn_if_ignored(stacklevel=3)
    make_batch = BatchMaker(training_data, asked, config)
    state = RunState(student, [*training_data.samples.shape], config)
    run = _Run(state, make_batch, path)
    if resume_from is not None:
        run.resume(resume_from)
    with _training(student, teacher), deferred_interrupt() as interrupt:
        try:
            speed = run.to_the_end(interrupt, progress)
        except KeyboardInterrupt:
            message = run.save_interrupted()
            tqdm.write(message, file=sys.stderr)
            raise KeyboardInterrupt(message) from None
        except FloatingPointError:  # says itself what was kept
            raise
        except Exception as error:
            if path is not None:
                run.save_after(error)
            raise
    state.use_ema()
    losses = state.losses.cpu()
    return DistillResult(student.eval(), losses, speed, run.written, state.step)


class _Run:
    """The loop over steps, and what is written on the way."""

    def __init__(self, state: RunState, make_batch: BatchMaker, path: Path | None) -> None:
        self.state, self.make_batch, self.path = state, make_batch, path
        config = state.config
        loss = TrainingLoss(state.student, config.difference_weight, config.autocast_dtype)
        named = {f"student.{name}": p for name, p in state.trained.items()}
        self.gradients = gradient_function(loss, named, compile=config.compile)
        self.look_every = 1 if state.parameters[0].device.type == "cpu" else _LOOK_EVERY
        self.generator_state = make_batch.generator.get_state()
        self.written: Path | None = None
        self.failed = False
        self.first: Batch | None = None

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Continue from a checkpoint of this run."""
        self.generator_state = self.state.load(path, functools.partial(self._check, path))
        self.make_batch.generator.set_state(self.generator_state)
        self.written = Path(path)

    def _check(self, path: str | os.PathLike[str], metadata: dict[str, Any], step: int) -> None:
        """ValueError for a checkpoint of other data or another teacher. One of the version before does not say."""
        state, maker = self.state, self.make_batch
        digest, first = metadata.get("data_digest"), metadata.get("first_batch")
        if digest is not None and digest != data_digest(maker.data):
            raise ValueError(f"{path} is of another run: the numbers of its data are others")
        state.told |= {} if first is None else {"first_batch": first}
        if first is None or step == 0:
            return

        def again() -> Batch:
            return BatchMaker(maker.data, maker.teacher, state.config)()

        was_training = state.student.training
        with _training(state.student, maker.teacher):
            check_first_batch(path, first, again)
        state.student.train(was_training)

    def to_the_end(self, interrupt: Interrupt, progress: bool) -> float:
        """Do the steps that are left; steps per second."""
        state, steps = self.state, self.state.config.steps
        first, started = state.step, time.perf_counter()
        bar = progress_bar(steps, desc=state.config.mode, initial=first, disable=not progress)
        with bar:
            while state.step < steps:
                self.generator_state = self.make_batch.generator.get_state()
                if interrupt.requested:
                    raise KeyboardInterrupt
                self._one_step(bar)
                if state.step == first + 1:
                    started = time.perf_counter()
        done = state.step - first - 1
        return done / (time.perf_counter() - started) if done > 0 else float("nan")

    def _one_step(self, bar: Any) -> None:
        state, config = self.state, self.state.config
        batch = self.make_batch()
        if state.step == 0:
            self.first = {name: batch[name][:FIRST_ROWS].clone() for name in ("x", "target")}
        batch["rng"] = rng_state(config.seed, state.step, batch["x"].device)
        state.record(*self.gradients(batch))
        done = state.step + 1
        saving = done % config.checkpoint_every == 0 or done == config.steps
        if saving or done % self.look_every == 0:
            self._look(bar)
        state.update()
        bar.update()
        if saving and self.path is not None:
            self._save(self.path, self.make_batch.generator.get_state(), last=done == config.steps)

    def _look(self, bar: Any) -> None:
        """Show the recent loss. Raises FloatingPointError where it is no number."""
        state = self.state
        bad = state.first_bad_step()
        if bad is not None:
            kept = f"the last checkpoint is {self.written}" if self.written else "no checkpoint"
            state.optimiser.zero_grad()
            raise FloatingPointError(
                f"step {bad}: loss {state.losses[bad].item():g}, gradient norm "
                f"{state.norms[bad].item():g}; training stopped, {kept}"
            )
        if not bar.disable:
            recent = state.losses[max(0, state.step - 50) : state.step + 1]
            bar.set_postfix(loss=f"{recent.mean().item():.4g}", refresh=False)

    def save_interrupted(self) -> str:
        """Keep the steps done; says where."""
        if not self.state.whole:
            return f"interrupted within an update: not saved, last checkpoint {self.written}"
        name = f"edmfast-distill-{os.getpid()}.safetensors"
        self._save(self.path or Path(tempfile.gettempdir()) / name, self.generator_state, last=True)
        kept = str(self.written)
        return f"interrupted at step {self.state.step}: continue with resume_from={kept!r}"

    def save_after(self, error: Exception) -> None:
        """Keep the steps done before an error, and warn where they are or why they are not kept."""
        try:
            message = self.save_interrupted()
        except Exception as failure:
            message = f"the steps done could not be written: {failure!r}"
        warnings.warn(f"training stopped by {error!r}: {message}", RuntimeWarning, stacklevel=3)

    def _tell(self) -> None:
        """Let checkpoints say what data and what first batch they are of; once, since it takes time."""
        told = self.state.told
        if "data_digest" not in told:
            told["data_digest"] = data_digest(self.make_batch.data)
        if self.first is not None:
            told["first_batch"], self.first = numbers_of(self.first), None

    def _save(self, path: Path, generator: torch.Tensor, *, last: bool) -> None:
        """Write a checkpoint, the last one in the folder for temporary files if nowhere else. A full disk warns,
        once for those before the last."""
        self._tell()
        failure: OSError | None = None
        try:
            if last:
                save = functools.partial(self.state.save, generator=generator)
                self.written, failure = write_or_fall_back(save, path)
            else:
                self.state.save(path, generator)
                self.written = path
        except OSError as error:
            failure = error
        if failure is None or (self.failed and not last):
            return
        self.failed = True
        where = self.written if self.written else "nowhere"
        warnings.warn(
            f"the checkpoint of step {self.state.step} could not be written to {path} ({failure}): the run goes "
            f"on, the last one is in {where}",
            RuntimeWarning,
            stacklevel=4,
        )


def _check_models(teacher: Teacher | None, student: nn.Module, config: DistillConfig) -> None:
    if not isinstance(student, nn.Module) or not hasattr(student, "sigma_data"):
        raise TypeError(
            f"the student must be an EnergyModel, a Denoiser or a module with sigma_data, "
            f"given {type(student).__name__}"
        )
    if teacher is student:
        raise ValueError("teacher and student are the same object")
    needed = config.mode == "distill" or config.difference_weight > 0
    if teacher is None and needed:
        raise ValueError('without a teacher only mode="dsm" with difference_weight=0 can train')
    if teacher is not None and not callable(teacher):
        raise TypeError(f"the teacher must be callable, given {type(teacher).__name__}")
    if config.difference_weight > 0 and not hasattr(student, "energy"):
        raise ValueError(f"difference_weight > 0 needs an energy, given {type(student).__name__}")


def _named(
    teacher: Teacher | None,
    student: nn.Module,
    data: TrainingData,
    condition_names: Mapping[str, str] | None,
) -> Teacher | None:
    """Return the teacher as it is called with our names. TypeError where one of the two takes no labels."""
    names = dict(condition_names or {})
    if names.keys() - {"class_label"}:
        raise ValueError(
            f"condition_names may rename class_label, the only condition of a training run, given {names}"
        )
    if names and teacher is None:
        raise ValueError("condition_names are those of a teacher, and there is none")
    asked = Renamed(teacher, **names) if names and teacher is not None else teacher
    if data.labels is not None:
        check_accepted(student, ["class_label"], f"the student {type(student).__name__}")
        if asked is not None:
            check_accepted(asked, ["class_label"], f"the teacher {name_of(teacher)}")
    return asked


@contextmanager
def _training(student: nn.Module, teacher: Teacher | None) -> Iterator[None]:
    """student in training mode, teacher in eval mode; the teacher's mode is put back."""
    was_training = isinstance(teacher, nn.Module) and teacher.training
    if isinstance(teacher, nn.Module):
        teacher.eval()
    student.train()
    try:
        yield
    finally:
        if isinstance(teacher, nn.Module):
            teacher.train(was_training)
