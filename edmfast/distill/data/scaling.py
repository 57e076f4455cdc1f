"""The scaling of raw samples to those on which a model trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_numbers


class Scaling:
    """A function from raw samples [n, *shape] to (raw - mean) / std * scale, in a floating-point dtype.

    Without mean and std, uint8 becomes raw / 127.5 - 1, within [-1, 1], and floats stay as they are. The
    arithmetic is that of float32 at least.

    mean, std: a number, or one for each channel [C], in the units of the raw samples. Each is 0 or 1 by default,
    but one of them alone also leaves the step from uint8 to [-1, 1] out. scale: a factor.

    Raises TypeError for anything but numbers, and ValueError for a std or scale that is not positive.
    """

    def __init__(self, mean: Any, std: Any, scale: Any) -> None:
        self.mean = None if mean is None else _per_channel("mean", mean)
        self.std = None if std is None else _per_channel("std", std)
        if self.std is not None and not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, given {self.std.tolist()}")
        self.scale = None if scale is None else as_float("scale", scale, positive=True)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError where mean or std do not have one number for each channel of samples of this shape."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and values.dim() and len(values) != shape[0]:
                raise ValueError(
                    f"{name} must be a number or one for each of the {shape[0]} channels of samples "
                    f"{[*shape]}, given {len(values)}"
                )

    def __call__(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the scaled samples in this dtype, contiguous, on the device of the raw ones."""
        x = raw.to(torch.promote_types(dtype, torch.float32))
        if self.mean is None and self.std is None:
            if raw.dtype == torch.uint8:
                # in place, because the conversion from bytes has made a copy
                x = x.div_(127.5).sub_(1)
        else:
            x = x if self.mean is None else x - _beside(self.mean, x)
            x = x if self.std is None else x / _beside(self.std, x)
        if self.scale is not None:
            x = x * self.scale
        return x.to(dtype).contiguous()

    def text(self) -> str:
        """Return the settings as a text, by which a resumed run recognises them."""
        settings = [None if v is None else v.tolist() for v in (self.mean, self.std)]
        return f"{settings} {self.scale}"


def _per_channel(name: str, value: Any) -> Tensor:
    numbers = as_numbers(name, value)
    if numbers.dim() > 1 or (numbers.dim() == 1 and len(numbers) == 0):
        raise ValueError(
            f"{name} must be a number or one for each channel, given {[*numbers.shape]}"
        )
    return numbers


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """Return one number for each channel in a shape that broadcasts with samples [n, C, ...]."""
    values = values.to(device=x.device, dtype=x.dtype)
    return values.reshape(-1, *[1] * (x.dim() - 2)) if values.dim() else values
