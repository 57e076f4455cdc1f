"""The training data: their checks before any work is done, and a warning where their scale does not fit."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import nn

from edmfast.distill.config import DistillConfig

_SCALES = 2.5


class TrainingData(NamedTuple):
    """The training data on the student's device: samples [n, *shape], and labels int64 [n] or None.

    num_classes: the number of classes that the student knows, 0 without labels.
    """

    samples: torch.Tensor
    labels: torch.Tensor | None
    num_classes: int


def check_data(
    data: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    student: nn.Module,
    config: DistillConfig,
) -> TrainingData:
    """Return the data as tensors on the student's device.

    data: samples [n, *shape], or (samples, labels int64 [n]). Raises TypeError for a dtype that is not the
    student's and for labels that are not int64. Raises ValueError for empty, non-finite or misshapen data, for
    labels out of range, and for label dropout without labels or without a known number of classes.
    """
    samples, labels = data if isinstance(data, tuple) else (data, None)
    # the first trained parameter sets dtype and device of the run
    parameter = next((p for p in student.parameters() if p.requires_grad), None)
    if parameter is None:
        raise ValueError("the student has no parameter that requires grad: nothing to train")
    if not isinstance(samples, torch.Tensor):
        raise TypeError(
            f"data must be a tensor or (tensor, labels), given {type(samples).__name__}"
        )
    if samples.dtype != parameter.dtype:
        raise TypeError(
            f"data must have the dtype of the student's parameters, {parameter.dtype}, given {samples.dtype}"
        )
    if samples.dim() < 2 or len(samples) == 0:
        raise ValueError(f"data must be [n, *shape] with n >= 1, given {[*samples.shape]}")
    if not samples.isfinite().all():
        raise ValueError(
            f"data must be finite, given {int((~samples.isfinite()).sum())} non-finite numbers"
        )
    samples = samples.to(parameter.device)
    backbone = getattr(student, "backbone", student)
    # a foreign backbone may take labels without declaring how many there are
    known = getattr(backbone, "num_classes", None)
    if labels is None:
        if config.label_dropout > 0:
            raise ValueError("label_dropout > 0 needs data=(samples, labels), given samples only")
        return TrainingData(samples, None, 0)
    labels = _check_labels(labels, len(samples), known)
    if config.label_dropout > 0 and known is None:
        raise ValueError("label_dropout > 0 needs a backbone with num_classes, given one without")
    return TrainingData(samples, labels.to(parameter.device), known or 0)


class DataScaleWarning(UserWarning):
    """A warning that the scale of the training data does not fit the student's sigma_data."""


def warn_of_scale(samples: torch.Tensor, student: nn.Module, *, stacklevel: int) -> None:
    """Warn where the standard deviation of all numbers of the data is 2.5 times sigma_data, or 1/2.5 of it.

    sigma_data sets the preconditioning and the loss weights, and so the noise levels that are learned. Training
    compensates for a factor of up to 2, such as data of unit variance with the default sigma_data of 0.5.
    """
    sigma_data = float(getattr(student, "sigma_data", 0.0))
    std = float(samples.double().std(correction=0))
    if sigma_data <= 0 or sigma_data / _SCALES <= std <= sigma_data * _SCALES:
        return
    scale = (
        "all numbers of the data are equal"
        if std == 0
        else f"the data have a standard deviation of {std:.3g}"
    )
    warnings.warn(
        f"{scale}, but the student has sigma_data={sigma_data:g}: rescale the data, or build the student with the "
        "standard deviation of the data as sigma_data",
        DataScaleWarning,
        stacklevel=stacklevel,
    )


def _check_labels(labels: torch.Tensor, count: int, known: int | None) -> torch.Tensor:
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, given {getattr(labels, 'dtype', labels)}")
    if labels.shape != (count,):
        raise ValueError(f"labels must be [n] = [{count}], given {[*labels.shape]}")
    # an embedding would fail later with an index error that names no label
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (known is not None and high >= known):
        classes = "" if known is None else f" and below num_classes = {known}"
        raise ValueError(f"labels must not be negative{classes}, given {low}..{high}")
    return labels
