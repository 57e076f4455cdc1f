"""Checks of times and states, the arguments that all functions of this room share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.models.preconditioning import can_be_read

Times = Tensor | Sequence[float]


def expand_times(time: float | Tensor, x: Tensor, *, name: str = "t", most: float = 1.0) -> Tensor:
    """Return times as a tensor [B, 1, ...] that broadcasts against x [B, *shape], in the dtype of x.

    The values of tensors are not checked, because reading them would wait for the device.
    Raises TypeError for an x that is not floating or a time that is no number. Raises ValueError for other shapes,
    and for a Python number outside of [0, most].
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor [B, *shape], given {kind}")
    if x.dim() < 2:
        raise ValueError(f"x must be [B, *shape] with at least 2 dimensions, given {[*x.shape]}")
    batch, ones = x.shape[0], [1] * (x.dim() - 1)
    if not isinstance(time, Tensor):
        number = as_float(name, time, least=0, most=most)
        return x.new_full((), number).expand(batch, *ones)
    if time.dtype == torch.bool or time.is_complex():
        raise TypeError(f"{name} must be real numbers, given {time.dtype}")
    if time.dim() > 1 or (time.dim() == 1 and time.shape[0] != batch):
        raise ValueError(
            f"{name} must be a float, [] or [B] with B = {batch}, given {[*time.shape]}"
        )
    return time.to(device=x.device, dtype=x.dtype).expand(batch).reshape(batch, *ones)


def any_at(time: float | Tensor, end: float) -> bool:
    """Return whether a time is a given end of the path.

    Tensors on other devices and in traces are not read, and count as no.
    """
    if isinstance(time, Tensor):
        return can_be_read(time) and bool((time == end).any())
    return float(time) == end


def as_schedule(times: Times, name: str = "times") -> list[float]:
    """Return the times of a run as floats: at least two within [0, 1], strictly increasing or decreasing.

    Raises TypeError for anything but a tensor or sequence of numbers, ValueError for times that are not as above.
    """
    if isinstance(times, Tensor):
        times = times.detach().flatten().tolist() if times.dim() == 1 else [*times]
    if not isinstance(times, Iterable) or isinstance(times, (str, bytes)):
        raise TypeError(f"{name} must be a tensor or a sequence of times, given {times!r}")
    numbers = [as_float(f"{name}[{i}]", time, least=0, most=1) for i, time in enumerate(times)]
    if len(numbers) < 2:
        raise ValueError(f"{name} must be at least two times, given {len(numbers)}")
    rising = numbers[1] > numbers[0]
    for i, (time, following) in enumerate(itertools.pairwise(numbers)):
        if (following > time) != rising or following == time:
            raise ValueError(
                f"{name} must increase strictly or decrease strictly, given {name}[{i}] = {time}, "
                f"{name}[{i + 1}] = {following}"
            )
    return numbers


def check_states(x: Tensor, name: str = "x") -> None:
    """Raise TypeError or ValueError unless x is a finite floating-point tensor [B, *shape]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor [B, *shape], given {kind}")
    if x.dim() < 2:
        raise ValueError(
            f"{name} must be [B, *shape] with a batch axis and at least one more, given {[*x.shape]}"
        )
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be finite, given NaN or infinity in it")
