"""The search for the row of a batch that made a loss or a gradient not finite, for the error that ends the run.

The batch is made again from its random draws, so that a teacher that answers at random may hide its fault.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edmfast.distill.batch import Batch, condition_of
from edmfast.models.calling.foreign import call_denoiser

_MOST = 3
"""The number of rows that a message names."""


def blame(student: nn.Module, batch: Batch, rows: slice) -> str | None:
    """Return a sentence that names rows which are not finite and their noise levels, or None where there are none.

    batch: a part of a training batch. rows: its place in the whole batch. Tensors that have other rows than the
    batch, such as those of energies, are named as a whole.
    """
    count = rows.stop - rows.start
    per_row = {
        name: tensor.flatten(1).isfinite().all(1) if tensor.dim() > 1 else tensor.isfinite()
        for name, tensor in batch.items()
        if tensor.is_floating_point() and tensor.shape[:1] == (count,)
    }
    for name, finite in per_row.items():
        if not bool(finite.all()):
            return _sentence(f"the {name} of", ~finite, batch, rows)
    answers = _answers(student, batch)
    if answers is not None and not bool(answers.all()):
        return _sentence("the student's denoised state of", ~answers, batch, rows)
    others = [name for name, tensor in batch.items() if name not in per_row]
    for name in others:
        if not bool(batch[name].isfinite().all()):
            count = int((~batch[name].isfinite()).sum())
            return f"{name} of rows {rows.start} to {rows.stop - 1} has {count} numbers that are not finite"
    return None


def levels_of(sigma: torch.Tensor) -> str:
    """Return a sentence for a batch in which `blame` finds nothing. sigma: its noise levels."""
    return (
        "every row of the batch and its denoised state are finite now, at noise levels from "
        f"{float(sigma.min()):.3g} to {float(sigma.max()):.3g}, so that a loss or a derivative overflows, or the "
        "teacher answers otherwise than before"
    )


@torch.no_grad()
def _answers(student: Any, batch: Batch) -> torch.Tensor | None:
    """Return for each row whether the student's denoised state is finite, bool [n], or None where it has none."""
    if not {"x", "sigma"} <= batch.keys():
        return None
    try:
        denoised = call_denoiser(student, batch["x"], batch["sigma"], **condition_of(batch))
    # this is the search for another error, which must not be hidden by a second one
    except Exception:
        return None
    return denoised.flatten(1).isfinite().all(1)


def _sentence(what: str, bad: torch.Tensor, batch: Batch, rows: slice) -> str:
    index = bad.nonzero().flatten().tolist()
    sigma = batch.get("sigma")
    named = []
    for row in index[:_MOST]:
        level = "" if sigma is None else f" at noise level {float(sigma[row]):.4g}"
        named.append(f"row {rows.start + row} of the batch{level}")
    more = f" and {len(index) - _MOST} other rows" if len(index) > _MOST else ""
    return f"{what} {', '.join(named)}{more} is not finite"
