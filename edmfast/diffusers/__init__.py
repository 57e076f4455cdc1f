"""Networks and pipelines of diffusers in edmfast: any network as a denoiser, and a scheduler on our solvers.

Importing this package does not import diffusers. `EdmfastScheduler` does, when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edmfast.diffusers.as_denoiser import DiffusersDenoiser, as_denoiser
from edmfast.diffusers.backbone import DiffusersNetwork

if TYPE_CHECKING:
    from edmfast.diffusers.scheduler import EdmfastScheduler

__all__ = ["DiffusersDenoiser", "DiffusersNetwork", "EdmfastScheduler", "as_denoiser"]


def __getattr__(name: str) -> Any:
    if name == "EdmfastScheduler":
        from edmfast.diffusers.scheduler import EdmfastScheduler

        return EdmfastScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
