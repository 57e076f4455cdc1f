"""The classes of the components of a mixture, and the labels of states."""

from __future__ import annotations

from typing import Any

import torch

from edmfast._internal.numbers import as_numbers


def as_classes(classes: Any, components: int) -> torch.Tensor:
    """Return the classes of components as int64 [K].

    Raises ValueError unless they are integers that hold every number from 0 to their largest.
    """
    numbers = as_numbers("classes", classes)
    labels = numbers.long()
    if labels.shape != (components,):
        raise ValueError(f"classes must be [K] = [{components}], given {[*labels.shape]}")
    present = labels.unique().tolist()
    if (labels != numbers).any() or present != [*range(len(present))]:
        raise ValueError(
            f"classes must be integers that hold every number from 0 to the largest, given {numbers.tolist()}"
        )
    return labels


def log_weights_by_class(weights: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
    """Return the log-weights of components, [C + 1, K]: within each class, and within all of them in the last row.

    Raises ValueError for a class whose weights are all 0, because it has no density.
    """
    if classes is None:
        return weights.log()[None]
    count = int(classes.max()) + 1
    belongs = torch.arange(count, device=weights.device)[:, None] == classes
    within = (weights * belongs).log()
    empty = (within == -torch.inf).all(1).nonzero()
    if len(empty):
        raise ValueError(f"every class needs a positive weight, and class {int(empty[0])} has none")
    normalised = within - torch.logsumexp(within, 1, keepdim=True)
    return torch.cat([normalised, weights.log()[None]])


def as_labels(labels: torch.Tensor, batch: int, count: int) -> torch.Tensor:
    """Return the labels of states as int64 [B] or [1].

    count: the number C of classes. The values are not read, because that would wait for the device.

    Raises:
        TypeError: labels that are no integer tensor, or a mixture without classes.
        ValueError: another shape.
    """
    if count == 0:
        raise TypeError("this mixture has no classes, and so it accepts no class_label")
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(f"class_label must be an integer tensor [B] or [1], given {kind}")
    if labels.shape not in ((batch,), (1,)):
        raise ValueError(f"class_label must be [B] = [{batch}] or [1], given {[*labels.shape]}")
    return labels.long()
