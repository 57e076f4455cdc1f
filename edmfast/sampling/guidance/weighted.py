"""The base class of guided denoisers: the weight, the interval of noise levels, and the parts of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.broadcast import row_factors, unsqueeze_like
from edmfast._internal.derivatives import is_transformed
from edmfast._internal.numbers import as_range
from edmfast._internal.rows import part_of, spread_rows
from edmfast.ops.linear_combination import linear_combination
from edmfast.targets.exponents import Exponent, as_exponent


class WeightedGuidance(nn.Module):
    """A denoiser that extrapolates from one denoiser through another by a weight, at an interval of noise levels.

    Args:
        weight: a number, or a tensor [K] with one number for each of K equal runs of consecutive samples: K = B is
            one number per sample.
        interval: noise levels (lo, hi) in units of x. There is guidance where lo < sigma <= hi only.

    Raises:
        TypeError: a weight or bound that is no number.
        ValueError: a weight that is not finite, or bounds without 0 <= lo < hi.
    """

    _weights: Tensor

    def __init__(self, weight: Exponent, interval: tuple[float, float]) -> None:
        super().__init__()
        self.interval = as_range("interval", interval)
        self._on_device: dict[torch.device, Tensor] = {}
        number = as_exponent(weight, "weight")
        self._number = None if isinstance(number, Tensor) else number
        if isinstance(number, Tensor):
            # A buffer moves to the device of the model. Float32 modules cast it, which rounds it.
            self.register_buffer("_weights", number, persistent=False)

    @property
    def weight(self) -> Exponent:
        """The weight: a float, or a float64 tensor [K]."""
        return self._weights.double() if self._number is None else self._number

    def inside(self, sigma: float | Tensor) -> bool | Tensor:
        """Return True or False where all samples are inside or outside the interval, or else a mask [] or [B].

        A tensor of levels is read, which waits for an accelerator. The evaluation that it can save takes longer.
        Where tensors cannot be read, in traces, transforms and captures, the result is a mask.
        """
        low, high = self.interval
        if low == 0 and high == math.inf:
            return True
        if not isinstance(sigma, Tensor):
            return low < sigma <= high
        mask = (sigma > low) & (sigma <= high)
        if not _can_be_read(mask):
            return mask
        if bool(mask.all()):
            return True
        return mask if bool(mask.any()) else False

    def extrapolated(self, start: Tensor, through: Tensor) -> Tensor:
        """Return start + weight (through - start) like x."""
        weight = self.weight
        # A compiler fuses the plain formula.
        if isinstance(weight, Tensor) or torch.compiler.is_compiling():
            # Single operations keep the bits of a sample in any batch, as fused lerp may not.
            return start + (through - start) * row_factors(weight, start)
        return linear_combination([through, start], self._shares(weight, start.device))

    def _shares(self, weight: float, device: torch.device) -> Sequence[float] | Tensor:
        """Return the coefficients of the two denoised states, which an accelerator gets once."""
        shares = (weight, 1 - weight)
        if device.type == "cpu":
            return shares
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(shares, dtype=torch.float64, device=device)
        return self._on_device[device]

    def for_rows(self, start: int, stop: int, batch: int) -> Any:
        """Return this denoiser for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        part = part_of(self)
        if self._number is None:
            part._weights = spread_rows("weight", self.weight, start, stop, batch)
        self.split_members(part, start, stop, batch)
        return part

    def split_members(self, part: Any, start: int, stop: int, batch: int) -> None:
        """Replace the models and conditions of a part by those for its samples."""
        raise NotImplementedError


def only_inside(inside: bool | Tensor, guided: Tensor, plain: Tensor) -> Tensor:
    """Return the guided states of the samples that are inside the interval, and the plain ones of the others."""
    if not isinstance(inside, Tensor):
        return guided if inside else plain
    return torch.where(unsqueeze_like(inside, guided), guided, plain)


def _can_be_read(mask: Tensor) -> bool:
    if torch.compiler.is_compiling() or get_proxy_mode() is not None or is_transformed():
        return False
    return not (mask.is_cuda and torch.cuda.is_current_stream_capturing())
