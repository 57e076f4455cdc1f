"""Training of the networks of a stochastic interpolant: its loss, and the entry point `train_interpolant`.

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.numbers import as_bool
from edmfast.distill.batch import Batch, condition_of
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import DataLike, TensorData, TrainingData, check_data
from edmfast.distill.interpolant_batch import InterpolantBatches
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.objectives.training import train_objective
from edmfast.distill.parallel.replicas import before_run
from edmfast.distill.recording import Logger
from edmfast.distill.trainer import DistillResult
from edmfast.interpolants import InterpolantModel, interpolant_loss
from edmfast.models.calling.conditions import check_accepted

# the configuration is frozen, so that one object can serve as the default
_DEFAULTS = DistillConfig()


class InterpolantLoss(TrainingLoss):
    """The training loss of all networks of an `InterpolantModel`, as a module for any training loop.

    It is the sum over the networks of the mean over the batch of `interpolants.interpolant_loss`.

    Args:
        model: the model whose networks are trained.
        autocast: the dtype of matrix products, as in torch.autocast; None for that of the weights.
    """

    def __init__(self, model: InterpolantModel, autocast: torch.dtype | None = None) -> None:
        super().__init__(model, 0.0, autocast)
        self.model = model

    def loss_of(self, batch: Batch) -> Tensor:
        """Return the loss [] of a batch.

        batch: x1 and z [B, *shape], t [B] within (0, 1), x0 like x1 unless the path is one-sided, and class_label
        int64 [B] where the networks take labels.
        """
        total = batch["x1"].new_zeros(())
        for field, network in self.model.networks().items():
            losses = interpolant_loss(
                field,
                network,
                self.model.interpolant,
                batch["x1"],
                batch["t"],
                batch["z"],
                x0=batch.get("x0"),
                **condition_of(batch),
            )
            total = total + losses.mean()
        return total


def train_interpolant(
    model: InterpolantModel,
    data: DataLike,
    *,
    base: Tensor | None = None,
    paired: bool = False,
    config: DistillConfig = _DEFAULTS,
    resume_from: str | os.PathLike[str] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    group: dist.ProcessGroup | None = None,
    loggers: Sequence[Logger] = (),
) -> DistillResult:
    """Train all networks of an interpolant on samples of its base and of the data.

    The model is changed in place, and its weights at the end are the running average of the run. Checkpoints,
    interrupts and resuming are those of `distill`.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        model: the networks and their interpolant.
        data: samples [n, *shape] in the dtype of the networks, or (samples, labels int64 [n]), or anything else
            that `open_data` accepts. The networks receive labels as the condition class_label.
        base: samples of the base [m, *shape]; None is N(0, I), and the only base of a one-sided path.
        paired: row k of the base belongs to row k of the data, as in image restoration or after a coupling. The
            data must be a tensor. Otherwise rows are drawn independently.
        config: the settings of the run. mode, the noise levels and the losses of energies have no effect.
            label_dropout is refused.
        resume_from: a checkpoint of this very run.
        progress: show a bar, or a line now and then where stderr is no terminal.
        overwrite: replace the file at config.checkpoint even if it belongs to another run or is no checkpoint.
        group: a process group of torch.distributed, whose ranks evaluate parts of every batch; see `distill`.
        loggers: receivers of the measures of the run; see `distill`.

    Raises:
        TypeError: a model, data or base of another kind, before any work is done.
        ValueError: data, base, settings or checkpoints that do not fit each other, before any work is done.
        FileExistsError: a file of another run at config.checkpoint, without overwrite.
        FloatingPointError: a loss or gradient that is not finite; the error names the step.
        KeyboardInterrupt: an interrupt of the program, after the checkpoint is saved.
    """
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, given {type(model).__name__}")
    if not isinstance(config, DistillConfig):
        raise TypeError(f"config must be a DistillConfig, given {type(config).__name__}")
    if config.label_dropout > 0:
        raise ValueError(
            f"config.label_dropout must be 0 for an interpolant, given {config.label_dropout:g}"
        )
    with before_run(group, model).together(), without_inference_mode():
        training_data = check_data(data, model, config)
        paired = as_bool("paired", paired)
        base = _check_base(base, training_data, model, paired)
        if training_data.has_labels:
            for name, network in model.networks().items():
                check_accepted(network, ["class_label"], f"the network of the {name}")
        batches = InterpolantBatches(
            training_data,
            config,
            one_sided=model.interpolant.one_sided,
            base=base,
            paired=paired,
        )
    return train_objective(
        model,
        batches,
        InterpolantLoss(model, config.autocast_dtype),
        config,
        # the path is a part of the description of the model
        objective=None,
        resume_from=resume_from,
        progress=progress,
        overwrite=overwrite,
        group=group,
        loggers=loggers,
    )


def _check_base(
    base: Tensor | None, data: TrainingData, model: InterpolantModel, paired: bool
) -> Tensor | None:
    """Return the samples of the base on the device of the data, or None for N(0, I)."""
    path = model.interpolant.path
    if base is None:
        if paired:
            raise ValueError("paired=True needs samples of the base, given base=None")
        return None
    if model.interpolant.one_sided:
        raise ValueError(f"base must be None for the path {path!r}, whose base is N(0, I)")
    if not isinstance(base, Tensor) or base.dtype != data.dtype:
        kind = base.dtype if isinstance(base, Tensor) else type(base).__name__
        raise TypeError(f"base must be a tensor of {data.dtype} like the data, given {kind}")
    if tuple(base.shape[1:]) != data.shape or len(base) == 0:
        raise ValueError(
            f"base must be [m, *shape] with the shape of the data, {[*data.shape]}, given {[*base.shape]}"
        )
    # other data may be doubled by mirror images or have no rows, so that a row of the base has no partner
    if paired and not isinstance(data, TensorData):
        raise ValueError("paired=True needs data as a tensor in the dtype of the networks")
    if paired and len(base) != data.size:
        raise ValueError(
            f"base must have as many rows as the data, {data.size}, with paired=True, given {len(base)}"
        )
    if not bool(base.isfinite().all()):
        raise ValueError("base must be finite, given NaN or infinity in it")
    return base.to(data.device)
