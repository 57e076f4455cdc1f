"""Rectified Diffusion: a denoiser trained on pairs of noise and sample that a teacher's ODE joins.

A batch has x = x_0 + sigma eps with both of one pair, and sigma log-uniform within the pair's range. The loss is
the mean over all elements of sqrt(e² + c²) - c (pseudo-Huber), where e = scale(sigma) (D(x; sigma) - x_0).

As eps and x_0 belong together, the minimiser is no posterior mean: its ODE goes from eps to x_0 in few steps. For
data N(0, c²) the pairs are x_0 = c eps, and D = c x/(c + sigma) instead of c² x/(c² + sigma²). One Euler step from
80 z to 0 then has the standard deviation 0.496894 for c = 0.5, where the plain denoiser gives 0.003125.

Source: Wang et al. 2024, "Rectified Diffusion: Straightness Is Not Your Need in Rectified Flow", arXiv 2410.07303.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_float
from edmfast.distill.batch import Batch, condition_of
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.objectives.pairs import NoisePairs
from edmfast.distill.objectives.training import check_student, train_objective
from edmfast.distill.recording import Logger
from edmfast.distill.trainer import DistillResult
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser

FORMS = ("x0", "noise", "network")

# the configuration is frozen, so that one object can serve as the default
_DEFAULTS = DistillConfig()


class RectifiedLoss(TrainingLoss):
    """The pseudo-Huber loss of Rectified Diffusion, as a module for any training loop.

    Source: Wang et al. 2024, arXiv 2410.07303; pseudo-Huber: Charbonnier et al. 1997.

    Args:
        student: the denoiser that is trained, with sigma_data.
        huber: c, the error at which the loss turns from quadratic to linear, in the units of the form.
        form: what the error is measured in: "x0" in the clean sample, "noise" in the predicted noise, divided by
            sigma, and "network" in the output of an EDM network, divided by c_out.
        autocast: the dtype of matrix products, as in torch.autocast; None for that of the weights.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        huber: float = 1e-3,
        form: str = "x0",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(student, 0.0, autocast)
        self.huber, self.form = as_float("huber", huber, positive=True), form
        if form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, given {form!r}")

    def loss_of(self, batch: Batch) -> Tensor:
        """Return the loss [] of a batch.

        batch: x and target [B, *shape], sigma [B], and class_label int64 [B] where the student takes labels.
        """
        # an energy records the graph of its score only where x requires grad
        x = batch["x"].detach().requires_grad_()
        denoised = call_denoiser(self.student, x, batch["sigma"], **condition_of(batch))
        square = (self._scale(batch["sigma"], x) * (denoised - batch["target"])).square()
        # the difference of two nearly equal numbers would lose the digits of small errors
        return (square / ((square + self.huber**2).sqrt() + self.huber)).mean()

    def _scale(self, sigma: Tensor, x: Tensor) -> Tensor | float:
        if self.form == "x0":
            return 1.0
        levels = expand_sigma(sigma, x)
        if self.form == "noise":
            return 1 / levels
        sigma_data: Any = self.student.sigma_data
        scale: Tensor = (levels.square() + sigma_data**2).sqrt() / (levels * sigma_data)
        return scale


class RectifiedDraws(NamedTuple):
    """The draws of a batch of B rows: which pairs, the places u [B] of the levels, and dropped labels or None."""

    pairs: Tensor
    place: Tensor
    dropped: Tensor | None


class RectifiedBatches:
    """A source of batches of pairs: x, target = x_0, sigma, and class_label where there are labels."""

    model: Denoiser | None = None
    compared: tuple[str, ...] = ("x", "target")

    def __init__(self, pairs: NoisePairs, config: DistillConfig) -> None:
        self.data: TrainingData = pairs
        self.pairs, self.config = pairs, config
        self.generator = generator(config.seed, pairs.device)
        self.between: Callable[[], None] = lambda: None

    def first_batch(self, rows: int) -> Batch:
        """Return the compared tensors of the first rows of the first batch; the generator is not used."""
        first = RectifiedBatches(self.pairs, self.config)
        batch = first.part(first.draw(0), slice(0, rows))
        return {name: batch[name] for name in self.compared}

    @torch.no_grad()
    def draw(self, step: int) -> RectifiedDraws:
        """Return the draws of the next batch. step: the training step."""
        size, data = self.config.batch_size, self.data
        rows = data.draw(step, size, self.generator)
        options: Any = {"generator": self.generator, "device": data.device, "dtype": data.dtype}
        place = torch.rand(size, **options)
        dropout = self.config.label_dropout
        dropped = torch.rand(size, **options) < dropout if dropout > 0 else None
        return RectifiedDraws(rows, place, dropped)

    @torch.no_grad()
    def part(self, drawn: RectifiedDraws, rows: slice) -> Batch:
        """Return the batch of some rows."""
        clean, labels = self.data.rows(drawn.pairs, rows)
        index = drawn.pairs[rows]
        low, high = self.pairs.low[index], self.pairs.high[index]
        sigma = low * (high / low) ** drawn.place[rows]
        batch: Batch = {"sigma": sigma, "target": clean}
        batch["x"] = clean + expand_sigma(sigma, clean) * self.pairs.noise[index]
        if labels is not None:
            # the label num_classes means unconditional, as guidance needs it
            unknown = None if drawn.dropped is None else drawn.dropped[rows]
            batch["class_label"] = (
                labels if unknown is None else torch.where(unknown, self.data.num_classes, labels)
            )
        return batch


def train_rectified(
    student: nn.Module,
    pairs: NoisePairs,
    *,
    huber: float = 1e-3,
    form: str = "x0",
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
) -> DistillResult:
    """Train a denoiser on pairs of a teacher's ODE, so that it samples in one or a few steps.

    The student starts best from the teacher's weights and keeps its form. It is changed in place, and its weights
    at the end are the running average of the run. Checkpoints, interrupts and resuming are those of `distill`. The
    published runs use AdamW with learning rate 5e-6, batches of 128, 200,000 steps, an average with decay 0.9999,
    and drop 10 % of the prompts. This function takes Adam, without the weight decay of AdamW.

    All pairs are held in the memory of the student's device: n pairs of samples with d numbers take 2 n d times
    the bytes of the student's dtype, 1.2 GB for 50,000 images of 3x32x32 in float32. The caller's own pairs take
    as much again where their device or dtype differ. Every rank holds all pairs. For more pairs than fit, train on
    one file of `make_pairs` after the other, each run with its own checkpoint.

    Source: Wang et al. 2024, arXiv 2410.07303.

    Args:
        student: a Denoiser, an EnergyModel or another module with sigma_data.
        pairs: the pairs, from `make_pairs` or `load_pairs`. They are moved to the student's device and dtype.
        huber: c of the loss sqrt(e² + c²) - c, in the units of the form.
        form: "x0", "noise" or "network": the prediction whose error e is, see `RectifiedLoss`.
        config: the settings of the run. mode, p_mean, p_std and noise_dof have no effect, because the noise levels
            are those of the pairs.
        resume_from: a checkpoint of this very run.
        progress: show a bar, or a line now and then where stderr is no terminal.
        overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint.
        group: a process group of torch.distributed, whose ranks evaluate parts of every batch; see `distill`.
        loggers: receivers of the measures of the run; see `distill`.

    Raises:
        TypeError: a student, pairs or numbers of another kind, or a student without labels where the pairs have
            some, before any work is done.
        ValueError: settings or checkpoints that do not fit each other, before any work is done.
        FileExistsError: a file of another run at config.checkpoint, without overwrite.
        FloatingPointError: a loss or gradient that is not finite; the error names the step.
        KeyboardInterrupt: an interrupt of the program, after the checkpoint is saved.
    """
    parameter = check_student(student, config)
    if not isinstance(pairs, NoisePairs):
        raise TypeError(f"pairs must be NoisePairs, from make_pairs, given {type(pairs).__name__}")
    if pairs.labels is not None:
        check_accepted(student, ["class_label"], f"the student {type(student).__name__}")
    elif config.label_dropout > 0:
        raise ValueError("label_dropout > 0 needs pairs with labels, given pairs without")
    if config.label_dropout > 0 and pairs.num_classes == 0:
        raise ValueError("label_dropout > 0 needs pairs with num_classes > 0, given 0")
    loss = RectifiedLoss(student, huber=huber, form=form, autocast=config.autocast_dtype)
    batches = RectifiedBatches(pairs.to(parameter.device, parameter.dtype), config)
    objective = {"name": "rectified", "huber": loss.huber, "form": form}
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
