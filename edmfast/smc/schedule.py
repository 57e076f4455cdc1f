"""Checks of the arguments of a run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_sigmas(sigmas: Tensor | Sequence[float]) -> list[float]:
    """Noise levels as floats: finite, strictly decreasing, positive but for a last 0."""
    levels = [float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
    if len(levels) < 2:
        raise ValueError(f"sigmas needs at least two levels, got {levels}")
    if not all(math.isfinite(level) for level in levels):
        raise ValueError(f"sigmas must be finite, got {levels}")
    if any(b >= a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"sigmas must be strictly decreasing, got {levels}")
    if levels[-1] < 0 or (len(levels) == 2 and levels[-1] == 0):
        raise ValueError(f"sigmas must be positive, but for a last 0 after two others: {levels}")
    return levels


def check_levels(target: Any, levels: list[float]) -> None:
    """Let every part of a target that ends at a certain noise level say whether these do."""
    parts = target.modules() if isinstance(target, nn.Module) else [target]
    for part in parts:
        check = getattr(part, "check_levels", None)
        if check is not None:
            check(levels)


def check_counts(shape: Sequence[int], particles: int, populations: int) -> tuple[int, ...]:
    """The shape of one sample. ValueError for empty shapes, or no particles or populations."""
    shape = tuple(int(n) for n in shape)
    if not shape or any(n < 1 for n in shape):
        raise ValueError(f"shape of one sample must be positive numbers, got {shape}")
    for name, value in (("particles", particles), ("populations", populations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if particles >= 2**31 or populations >= 2**28:
        raise ValueError("at most 2^31 - 1 particles and 2^28 - 1 populations")
    return shape


def place(
    target: Any, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the states: what was asked, or else those of the target's tensors."""
    tensors: list[Tensor] = []
    if isinstance(target, nn.Module):
        # numbers of a target's own, such as its exponents, say nothing of the models in it
        parts = [m for m in target.modules() if not getattr(m, "numbers_only", False)]
        buffers = (b for m in parts for b in m.buffers(recurse=False))
        tensors = [t for t in (*target.parameters(), *buffers) if t.is_floating_point()]
    first = tensors[0] if tensors else torch.empty(0)
    dtype = dtype or first.dtype
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return torch.device(device) if device is not None else first.device, dtype
