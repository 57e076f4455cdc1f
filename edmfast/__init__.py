"""Energy-based diffusion models: distil a denoiser into an energy, sample from it under control.

`edmfast.distill` is the function; its package is reached by `from edmfast.distill import ...`.
"""

from __future__ import annotations

import importlib
from typing import Any

from edmfast import (
    analytic,
    density,
    diagnostics,
    interpolants,
    models,
    nn,
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
from edmfast.models.compiling.flat_step import flat_compile
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
    "evaluation",
    "flat_compile",
    "info",
    "interpolants",
    "load_teacher",
    "log_density",
    "models",
    "nn",
    "ops",
    "sampling",
    "smc",
    "targets",
    "teachers",
]

# They stand apart from the import of the package, which their users alone pay for.
_LAZY = ("demo", "diffusers", "evaluation", "k_diffusion", "teachers")


def __getattr__(name: str) -> Any:
    """Import a module for other projects, or the function that loads their models, when it is first used."""
    if name in _LAZY:
        return importlib.import_module(f"edmfast.{name}")
    if name == "load_teacher":
        return importlib.import_module("edmfast.teachers").load_teacher
    raise AttributeError(f"module 'edmfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *__all__})
