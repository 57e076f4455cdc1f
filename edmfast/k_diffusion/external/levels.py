"""Noise levels of a call in a form that multiplies states."""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.models.preconditioning import expand_sigma


def levels_like(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Return noise levels [B, 1, 1, ...] on the device of x, in float32 or a wider dtype of x or sigma.

    x: [B, *shape]. sigma: a float, [] or [B]. Raises TypeError or ValueError for other forms.
    """
    kind = sigma.dtype if isinstance(sigma, Tensor) and sigma.is_floating_point() else torch.float32
    if kind.itemsize < 4:
        kind = torch.float32
    # The scalings of a half-precision state would lose their digits in its own dtype.
    wide = torch.promote_types(kind, x.dtype)
    return expand_sigma(sigma, x if x.dtype == wide else x.new_empty((), dtype=wide).expand_as(x))
