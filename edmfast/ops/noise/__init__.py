"""Counter-based standard normals."""

from edmfast.ops.noise.operator import rng_state, standard_normal

__all__ = ["rng_state", "standard_normal"]
