"""The check of the training data before any work is done, whatever kind of data the caller gives."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from edmfast.distill.config import DistillConfig
from edmfast.distill.data.opening import DataLike, open_data
from edmfast.distill.data.source import TrainingData
from edmfast.distill.data.stored import StoredData
from edmfast.distill.data.stream import StreamData
from edmfast.distill.data.tensors import checked_tensors


def check_data(data: DataLike, student: nn.Module, config: DistillConfig) -> TrainingData:
    """Return the data on the student's device and in its dtype.

    data: what `open_data` accepts or returns, or another object with the methods of `TrainingData`. Floating-point
    tensors [n, *shape], or (samples, labels int64 [n]), must have the dtype of the student already.

    Raises TypeError for data of another kind or dtype. Raises ValueError for empty, non-finite or misshapen data,
    for labels out of range, for label dropout without labels or without a known number of classes, and for a
    stream where rows must be drawn at random.
    """
    # the first trained parameter sets dtype and device of the run
    parameter = next((p for p in student.parameters() if p.requires_grad), None)
    if parameter is None:
        raise ValueError("the student has no parameter that requires grad: nothing to train")
    # a foreign backbone may take labels without declaring how many there are
    known = getattr(getattr(student, "backbone", student), "num_classes", None)
    device, dtype = parameter.device, parameter.dtype
    checked: TrainingData
    if _is_protocol(data):
        checked = _checked_protocol(data, device, dtype)
    elif _is_float_tensor(data):
        checked = checked_tensors(cast(Any, data), device, dtype, known)
    else:
        opened = data if isinstance(data, (StoredData, StreamData)) else open_data(data)
        assert isinstance(opened, (StoredData, StreamData))
        checked = opened.placed(device, dtype, known)
    if config.label_dropout > 0 and not checked.has_labels:
        raise ValueError("label_dropout > 0 needs data=(samples, labels), given samples only")
    if config.label_dropout > 0 and known is None:
        raise ValueError("label_dropout > 0 needs a backbone with num_classes, given one without")
    if config.value_weight > 0 and hasattr(student, "energy") and checked.size is None:
        raise ValueError("value_weight > 0 needs data whose rows can be drawn, given a stream")
    return checked


def _is_float_tensor(data: Any) -> bool:
    samples = data[0] if isinstance(data, tuple) and len(data) == 2 else data
    # integers other than uint8 get the same error as floats of another dtype
    return isinstance(samples, torch.Tensor) and samples.dtype != torch.uint8


def _is_protocol(data: Any) -> bool:
    if isinstance(data, (StoredData, StreamData)):
        return False
    return all(callable(getattr(data, name, None)) for name in ("draw", "rows", "some", "digest"))


def _checked_protocol(data: Any, device: torch.device, dtype: torch.dtype) -> TrainingData:
    if data.dtype != dtype or data.device != device:
        raise ValueError(
            f"data must give samples of {dtype} on {device}, as the student's parameters are, given "
            f"{data.dtype} on {data.device}"
        )
    source: TrainingData = data
    return source
