"""Energy-based diffusion models: distil a denoiser into an energy, sample from it under control.

`edmfast.distill` is the function; its package is reached by `from edmfast.distill import ...`.
"""

from __future__ import annotations

from edmfast import diagnostics, models, ops, sampling, smc
from edmfast._info import info
from edmfast._version import __version__
from edmfast.distill import DistillConfig, DistillResult, distill
from edmfast.models import (
    Conditioned,
    Denoiser,
    EnergyModel,
    Guided,
    Mixture,
    Product,
    Tempered,
    analytic,
)

__all__ = [
    "Conditioned",
    "Denoiser",
    "DistillConfig",
    "DistillResult",
    "EnergyModel",
    "Guided",
    "Mixture",
    "Product",
    "Tempered",
    "__version__",
    "analytic",
    "diagnostics",
    "distill",
    "info",
    "models",
    "ops",
    "sampling",
    "smc",
]
