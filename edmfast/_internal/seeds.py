"""The seeds of a run: one for all samples, or one for each sample of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_seed


def as_seeds(seed: Any, x: Tensor) -> Tensor:
    """Return the seeds of a run over states x [B, *shape] as int64 [1] or [B] on the device of x.

    seed: an integer of 64 bits for all samples, a sequence, array or tensor [B] of such integers, or None for one
        draw of torch's default CPU generator. With None, torch.manual_seed repeats a run.
    Raises TypeError for anything else than integers, and ValueError for an integer that does not fit 64 bits or a
    number of seeds that is not the batch size.
    """
    if seed is None:
        # On the CPU whatever the states' device is, so that a run repeats across devices.
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    numbers = _numbers(seed, len(x))
    seeds = [signed(number) for number in numbers]
    if len(seeds) == 1:
        # A fill does not wait for a GPU, while a tensor made of a list would.
        return torch.full((1,), seeds[0], dtype=torch.int64, device=x.device)
    return torch.tensor(seeds, dtype=torch.int64).to(x.device, non_blocking=True)


def one_each(seed: Any) -> bool:
    """Return whether a seed is a sequence, array or tensor, which has one seed for each sample."""
    sequence = isinstance(seed, Sequence) and not isinstance(seed, (str, bytes))
    return sequence or getattr(seed, "ndim", 0) > 0


def signed(seed: int) -> int:
    """Return the signed integer with the 64 bits of a seed."""
    return seed - 2**64 if seed >= 2**63 else seed


def _numbers(seed: Any, batch: int) -> list[int]:
    """Return one seed, or one for each of `batch` samples."""
    accepted = f"seed must be an integer or one integer for each of the {batch} samples"
    if getattr(seed, "ndim", 0) > 0:
        if seed.ndim != 1:
            raise ValueError(f"{accepted}, got shape {[*seed.shape]}")
        seed = seed.tolist()
    if not isinstance(seed, Sequence) or isinstance(seed, (str, bytes)):
        return [as_seed(seed)]
    if len(seed) != batch:
        raise ValueError(f"{accepted}, got {len(seed)} seeds")
    return [as_seed(number, f"seed[{i}]") for i, number in enumerate(seed)]
