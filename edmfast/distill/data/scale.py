"""The standard deviation of the training data, and a warning where it does not fit the student's sigma_data."""

from __future__ import annotations

import warnings

from torch import nn

from edmfast.distill.data.source import TrainingData

_SCALES = 2.5
_SAMPLES = 1 << 16
"""The number of samples from which the standard deviation is estimated, if there are more."""
_NUMBERS = 1 << 27
"""The number of elements of these samples at most, so that large images need little memory."""


class DataScaleWarning(UserWarning):
    """A warning that the scale of the training data does not fit the student's sigma_data."""


def spread_of(data: TrainingData) -> float:
    """Return the standard deviation of all numbers of the data, estimated from some samples of a large set."""
    elements = max(1, _elements(data.shape))
    count = max(2, min(_SAMPLES, _NUMBERS // elements))
    return float(data.some(count).double().std(correction=0))


def warn_of_scale(data: TrainingData, student: nn.Module, *, stacklevel: int) -> None:
    """Warn where the standard deviation of all numbers of the data is 2.5 times sigma_data, or 1/2.5 of it.

    sigma_data sets the preconditioning and the loss weights, and so the noise levels that are learned. Training
    compensates for a factor of up to 2, such as data of unit variance with the default sigma_data of 0.5.
    """
    sigma_data = float(getattr(student, "sigma_data", 0.0))
    std = spread_of(data)
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


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
