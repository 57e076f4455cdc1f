"""Standard normals from a counter, the same for a sample whatever is drawn beside it."""

from edmfast.ops.noise.operator import rng_state, standard_normal

__all__ = ["rng_state", "standard_normal"]
