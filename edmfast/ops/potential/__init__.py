"""The passes around a network that make its energy and its score, differentiable twice."""

from edmfast.ops.potential.operator import potential, potential_assemble

__all__ = ["potential", "potential_assemble"]
