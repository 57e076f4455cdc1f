"""Measurements of a model (is its score a gradient, is its energy consistent?) and of its samples."""

from edmfast.diagnostics.circulation import (
    Circulation,
    rectangle_circulation,
    score_circulation,
)
from edmfast.diagnostics.conservativity import Asymmetry, field_asymmetry, score_asymmetry
from edmfast.diagnostics.energies import energy_wasserstein, log_z_error
from edmfast.diagnostics.energy_distance import energy_distance
from edmfast.diagnostics.energy_error import EnergyError, energy_error
from edmfast.diagnostics.fokker_planck import FokkerPlanck, fokker_planck
from edmfast.diagnostics.quality import (
    frechet_distance,
    maximum_mean_discrepancy,
    mode_masses,
    sliced_wasserstein,
)
from edmfast.diagnostics.report import ConservativityReport, conservativity_report
from edmfast.diagnostics.self_check import (
    SelfCheck,
    ancestral_trajectory,
    noising_trajectory,
    self_check,
)

__all__ = [
    "Asymmetry",
    "Circulation",
    "ConservativityReport",
    "EnergyError",
    "FokkerPlanck",
    "SelfCheck",
    "ancestral_trajectory",
    "conservativity_report",
    "energy_distance",
    "energy_error",
    "energy_wasserstein",
    "field_asymmetry",
    "fokker_planck",
    "frechet_distance",
    "log_z_error",
    "maximum_mean_discrepancy",
    "mode_masses",
    "noising_trajectory",
    "rectangle_circulation",
    "score_asymmetry",
    "score_circulation",
    "self_check",
    "sliced_wasserstein",
]
