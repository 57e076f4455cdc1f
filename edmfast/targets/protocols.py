"""The protocols by which edmfast uses a model: a `Target` has an energy and score, a `Denoiser` is a callable."""

from edmfast.models.protocols import Denoiser, Target

Model = Target | Denoiser
"""A target, or a plain denoiser, which has a score but no energy."""

__all__ = ["Denoiser", "Model", "Target"]
