"""Rows that a network of EDM takes for classes: one-hot rows, or rows of a caller as they are.

A class is an int64 number from 0 to label_dim, where label_dim itself means "unconditional" and gives a row of
zeros. Source: Karras et al. 2022, arXiv 2206.00364, appendix F.2.
"""

from __future__ import annotations

from typing import Any

import torch


def check_label(label: Any, label_dim: int, batch: int) -> None:
    """Raise ValueError unless label is int64 [batch] or floating rows [batch or 1, label_dim]."""
    accepted = f"int64 [{batch}], or floating rows [{batch}, {label_dim}]"
    if not isinstance(label, torch.Tensor):
        raise ValueError(
            f"class_label must be {accepted}, given {label!r}: one class for all samples is bound by "
            "edmfast.Conditioned(model, class_label=...)"
        )
    rows = (batch, 1)
    whole = label.dtype == torch.int64 and label.dim() == 1 and label.shape[0] in rows
    one_hot = label.is_floating_point() and label.dim() == 2 and label.shape[0] in rows
    if not whole and not (one_hot and label.shape[1] == label_dim):
        raise ValueError(f"class_label must be {accepted}, given {label.dtype} {[*label.shape]}")


def label_rows(label: torch.Tensor, label_dim: int, like: torch.Tensor) -> torch.Tensor:
    """Return rows [B, label_dim] for classes int64 [B], in the dtype of `like`; floating rows as they are.

    Raises ValueError for a class out of range, where the classes lie on the CPU.
    """
    if label.is_floating_point():
        return label.to(like.dtype)
    rows = like.new_zeros(label.shape[0], label_dim + 1)
    try:
        # one column more than classes, which "unconditional" fills and which is cut off
        rows = rows.scatter(1, label[:, None], 1.0)
    # reading the labels before would wait for a GPU
    except RuntimeError as error:
        raise ValueError(
            f"class_label must lie in 0..{label_dim} ({label_dim} means unconditional), given "
            f"{label.min()}..{label.max()}"
        ) from error
    return rows[:, :label_dim]
