"""Measures of a model (is it an energy, does it agree with itself?) and of its samples."""

from edmfast.diagnostics.conservativity import Asymmetry, field_asymmetry, score_asymmetry
from edmfast.diagnostics.quality import (
    frechet_distance,
    maximum_mean_discrepancy,
    mode_masses,
    sliced_wasserstein,
)
from edmfast.diagnostics.self_check import (
    SelfCheck,
    ancestral_trajectory,
    noising_trajectory,
    self_check,
)

__all__ = [
    "Asymmetry",
    "SelfCheck",
    "ancestral_trajectory",
    "field_asymmetry",
    "frechet_distance",
    "maximum_mean_discrepancy",
    "mode_masses",
    "noising_trajectory",
    "score_asymmetry",
    "self_check",
    "sliced_wasserstein",
]
