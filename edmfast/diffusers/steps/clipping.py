"""The clipping of clean samples that configurations of diffusers ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from edmfast.sampling.solvers import DynamicThreshold

Clip = Callable[[Tensor], Tensor]


def clip_of(settings: Mapping[str, Any]) -> Clip | None:
    """Return what is done to the predicted clean samples, or None."""
    # diffusers thresholds no noise predictions of UniPC
    if settings.get("thresholding") and settings.get("predict_x0", True):
        return _threshold(settings["dynamic_thresholding_ratio"], settings["sample_max_value"])
    if settings.get("clip_sample"):
        bound = settings["clip_sample_range"]
        return lambda clean: clean.clamp(-bound, bound)
    return None


def _threshold(quantile: float, ceiling: float) -> Clip:
    if ceiling >= 1:
        return DynamicThreshold(quantile, 1.0, ceiling)
    # the ceiling is below the least threshold of 1, and then it is the threshold
    return lambda clean: clean.clamp(-ceiling, ceiling) / ceiling
