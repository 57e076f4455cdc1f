"""Dynamic thresholding of the denoised states.

Source: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models", arXiv 2205.11487, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.sampling.solvers.shared.fields import hold

Threshold = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DynamicThreshold:
    """A function that clamps denoised states to [-s, s] and divides them by s / maximum.

    For every sample s is the quantile of |x0|, but at least `maximum`, so states within the range stay as they
    are. Pass it as the `threshold` of a solver. Source: Saharia et al. 2022, arXiv 2205.11487, section 2.3.

    Args:
        quantile: the share of the values that stays below s, in [0, 1].
        maximum: the largest magnitude of clean data, positive, in the units of x.
        ceiling: the largest s, at least `maximum`.

    Raises:
        TypeError: a setting that is no number.
        ValueError: a setting that is out of range.
    """

    quantile: float = 0.995
    maximum: float = 1.0
    ceiling: float = math.inf

    def __post_init__(self) -> None:
        hold(self, quantile=as_float("quantile", self.quantile, least=0, most=1))
        hold(self, maximum=as_float("maximum", self.maximum, positive=True))
        hold(self, ceiling=as_float("ceiling", self.ceiling, least=self.maximum, finite=False))

    def __call__(self, denoised: Tensor) -> Tensor:
        """Return the denoised states [B, *shape], of which every value lies in [-maximum, maximum]."""
        size = denoised.shape[1:].numel()
        # The quantile lies between two of the largest values, so a full sort would be wasted.
        place = self.quantile * (size - 1)
        above = size - math.floor(place)
        largest = denoised.flatten(1).abs().topk(above).values
        high, low = largest[:, max(above - 2, 0)], largest[:, above - 1]
        scale = torch.lerp(low, high, place - math.floor(place))
        scale = scale.clamp(self.maximum, self.ceiling).reshape(-1, *[1] * (denoised.ndim - 1))
        return denoised.clamp(-scale, scale) * (self.maximum / scale)
