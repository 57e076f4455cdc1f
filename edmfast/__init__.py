"""Energy-based diffusion models: distil a denoiser into an energy, sample from it under control.

`edmfast.distill` is the function; its package is reached by `from edmfast.distill import ...`.
"""

from __future__ import annotations

from edmfast import (
    analytic,
    density,
    diagnostics,
    interpolants,
    models,
    ops,
    sampling,
    smc,
    targets,
)
from edmfast._info import info
from edmfast._version import __version__
from edmfast.density import log_density
from edmfast.distill import DistillConfig, DistillResult, distill
from edmfast.models import Denoiser, EnergyModel
from edmfast.targets import (
    Conditioned,
    Constrained,
    Guided,
    LinearInverse,
    Mixture,
    Product,
    Tempered,
    Tilted,
)

__all__ = [
    "Conditioned",
    "Constrained",
    "Denoiser",
    "DistillConfig",
    "DistillResult",
    "EnergyModel",
    "Guided",
    "LinearInverse",
    "Mixture",
    "Product",
    "Tempered",
    "Tilted",
    "__version__",
    "analytic",
    "density",
    "diagnostics",
    "distill",
    "info",
    "interpolants",
    "log_density",
    "models",
    "ops",
    "sampling",
    "smc",
    "targets",
]
