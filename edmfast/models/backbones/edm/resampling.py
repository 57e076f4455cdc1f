"""Halving and doubling of an image by a low-pass filter, alone or beside a convolution.

The filter is the outer product f fᵀ of a short row of numbers f, divided by its sum. Halving filters the image and
keeps every second pixel. Doubling puts zeros between the pixels and filters the result with four times the filter.
Beyond its border the image is zero. Both are linear and equal for all channels. With f = [1, 1] they are the mean
of 2x2 pixels and the repetition of each pixel, which need no convolution.

Sources: Zhang 2019, arXiv 1904.11486; Karras et al. 2022, arXiv 2206.00364, table 7 ("resampling filter").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edmfast.models.backbones.convolution import Convolution, convolve


def low_pass(numbers: Sequence[float]) -> torch.Tensor:
    """Return the filter f fᵀ/sum² as [1, 1, n, n], for n numbers f."""
    row = torch.tensor([*numbers], dtype=torch.float64)
    square = torch.outer(row, row) / row.sum().square()
    return square[None, None].to(torch.get_default_dtype())


class Resampling(nn.Module):
    """The part that `Filter` and `FilteredConvolution` share: a filter, and the check of one that is loaded."""

    resample_filter: torch.Tensor
    direction: str
    is_box: bool

    def prepare(self, numbers: Sequence[float], direction: str) -> None:
        """Set the filter. numbers: f, of an even length. direction: "down" halves, "up" doubles."""
        self.direction = direction
        # two equal numbers need no convolution
        self.is_box = len(numbers) == 2 and numbers[0] == numbers[1]
        self.register_buffer("resample_filter", low_pass(numbers))

    def resampled(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [B, C, H, W] at half or twice its height and width."""
        if self.direction == "down":
            if self.is_box:
                return F.avg_pool2d(x, 2)
            return _halved(x, self.resample_filter, _reach(self.resample_filter))
        return _repeated(x) if self.is_box else _doubled(x, self.resample_filter)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Report a filter whose numbers are not those that the constructor was given, beside torch's checks."""
        name, expected = f"{prefix}resample_filter", self.resample_filter
        stored = state.get(name)
        known = stored is not None and not stored.is_meta and not expected.is_meta
        if known and stored.shape == expected.shape:
            # half precisions have rounded the numbers
            near = torch.allclose(stored.double().cpu(), expected.double().cpu(), rtol=0, atol=1e-2)
            if not near:
                rest[-1].append(
                    f"{name} is {stored[0, 0].tolist()} in the state, while the constructor's resample_filter "
                    f"gives {expected[0, 0].tolist()}."
                )
        super()._load_from_state_dict(state, prefix, *rest)


class Filter(Resampling):
    """Halve or double images by a filter, without a convolution.

    numbers: f, of an even length. direction: "down" halves, "up" doubles.
    """

    def __init__(self, numbers: Sequence[float], direction: str) -> None:
        super().__init__()
        self.prepare(numbers, direction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [B, C, H, W] at half or twice its height and width."""
        return self.resampled(x)


class FilteredConvolution(Resampling, Convolution):
    """A convolution of the halved or doubled image, with weight, bias and resample_filter in its state.

    in_channels, out_channels, kernel: those of the convolution, which pads by kernel//2.
    numbers, direction: those of `Filter`.
    convolve_first: convolve the image before it is halved. The convolution then reads beyond the border as far as
        the filter does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        numbers: Sequence[float],
        direction: str,
        convolve_first: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.prepare(numbers, direction)
        self.convolve_first = convolve_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, out_channels, H', W'] for x [B, in_channels, H, W], where H' is H/2 or 2 H."""
        kernel = self.kernel_size[0]
        if self.convolve_first:
            reach = _reach(self.resample_filter)
            wide = convolve(x, self.weight, self.bias, kernel // 2 + reach)
            return _halved(wide, self.resample_filter, 0)
        if kernel == 1 and self.direction == "up":
            # a 1x1 convolution commutes with the filter, and costs a fourth before it
            mixed = self.resampled(convolve(x, self.weight))
            return mixed if self.bias is None else mixed + self.bias[:, None, None]
        return super().forward(self.resampled(x))


def _reach(square: torch.Tensor) -> int:
    """Return how many pixels a filter [1, 1, n, n] reads beyond the pixels that it averages."""
    return (square.shape[-1] - 1) // 2


def _halved(x: torch.Tensor, square: torch.Tensor, padding: int) -> torch.Tensor:
    channels = x.shape[1]
    weight = square.to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)


def _doubled(x: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    channels = x.shape[1]
    weight = (4 * square).to(x.dtype).expand(channels, 1, -1, -1)
    padding = _reach(square)
    return F.conv_transpose2d(x, weight, stride=2, padding=padding, groups=channels)


def _repeated(x: torch.Tensor) -> torch.Tensor:
    """Return x [B, C, H, W] with each pixel repeated, [B, C, 2 H, 2 W], in the memory format of x."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    # torch's own interpolation needs sizes that are numbers, which a trace with symbols has not
    rows = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return rows.flatten(4).flatten(2, 3)
