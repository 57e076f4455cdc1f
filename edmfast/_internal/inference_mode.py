"""The modes of autograd in which a run works, whatever the caller's are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_inference_mode() -> Iterator[None]:
    """Within, tensors can take part in derivatives, which torch.inference_mode rules out for good."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def as_ordinary(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of inference mode as an ordinary one, by a copy; any other as it is."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
