"""The passes around a network that make its energy and score, to second order."""

from edmfast.ops.potential.operator import potential, potential_assemble

__all__ = ["potential", "potential_assemble"]
