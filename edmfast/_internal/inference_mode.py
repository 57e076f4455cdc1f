"""Inference mode, which a run must leave to compute derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_inference_mode() -> Iterator[None]:
    """Leave torch.inference_mode within the block, because its tensors can never take part in derivatives."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    # Leaving inference mode would otherwise turn grad mode on, which the caller did not ask for.
    with torch.inference_mode(False), torch.no_grad():
        yield


def as_ordinary(x: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor that inference mode made as an ordinary tensor, and any other tensor as it is."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
