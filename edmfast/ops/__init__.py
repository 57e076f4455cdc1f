"""Ground floor: operators, tensors in and tensors out."""

from edmfast.ops.noise import rng_state, standard_normal
from edmfast.ops.resample import Resampled, systematic_resample

__all__ = ["Resampled", "rng_state", "standard_normal", "systematic_resample"]
