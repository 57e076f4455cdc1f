"""Class labels in all the forms in which data come: tensors, arrays, lists, and the labels of single items."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def as_labels(labels: Any, count: int, where: str) -> Tensor:
    """Return one label for each sample as int64 [count] on the CPU.

    where: the start of error messages. Raises TypeError for labels that are no integers, and ValueError for
    another number of labels or for negative ones.
    """
    if isinstance(labels, np.ndarray):
        # torch knows neither foreign byte orders nor wide unsigned integers
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{where} must be integers, given {labels.dtype}")
        if labels.dtype == np.uint64 and labels.size and int(labels.max()) >= 2**63:
            raise ValueError(f"{where} must fit int64, given {labels.max()}")
        labels = labels.astype(np.int64)
    tensor = torch.as_tensor(labels).detach().cpu()
    # an empty list has the dtype of floats
    if tensor.dtype not in _INTEGERS and tensor.numel():
        advice = ": give class numbers, not one-hot rows" if tensor.dim() == 2 else ""
        raise TypeError(f"{where} must be integers, given {tensor.dtype}{advice}")
    if tensor.dim() != 1 or len(tensor) != count:
        raise ValueError(
            f"{where} must be one integer for each of the {count} samples, [{count}], given "
            f"{len(tensor) if tensor.dim() else 'one'} of shape {[*tensor.shape]}"
        )
    tensor = tensor.to(torch.int64)
    if count and int(tensor.min()) < 0:
        raise ValueError(f"{where} must not be negative, given {int(tensor.min())}")
    return tensor


def as_label(label: Any, where: str) -> int:
    """Return the label of one item as an int. Raises TypeError for anything that is no single integer."""
    if isinstance(label, bool) or str(getattr(label, "dtype", "")).endswith("bool"):
        raise TypeError(f"{where} must be an integer, given a bool")
    try:
        number = operator.index(label)
    except (TypeError, RuntimeError, ValueError) as error:
        shape = getattr(label, "shape", None)
        kind = type(label).__name__ if shape is None else f"{type(label).__name__} {[*shape]}"
        raise TypeError(f"{where} must be an integer, given {kind}") from error
    if not 0 <= number < 2**63:
        raise ValueError(f"{where} must be from 0 to 2^63 - 1, given {number}")
    return number


def check_range(labels: Tensor, num_classes: int | None) -> None:
    """Raise ValueError for labels that the student's num_classes does not cover. None: it does not say."""
    if num_classes is None or len(labels) == 0:
        return
    # an embedding would fail later with an index error that names no label
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must not be negative and below num_classes = {num_classes}, given {low}..{high}"
        )
