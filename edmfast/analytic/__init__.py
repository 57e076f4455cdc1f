"""Exact densities: mixtures and wells known at every noise level, and particle systems known without noise."""

from edmfast.analytic.gaussian_mixture import GaussianMixture, gmm40
from edmfast.analytic.many_well import ManyWell
from edmfast.analytic.mixture_of_gaussians import MixtureOfGaussians
from edmfast.analytic.systems import DoubleWellPairs, LennardJones

__all__ = [
    "DoubleWellPairs",
    "GaussianMixture",
    "LennardJones",
    "ManyWell",
    "MixtureOfGaussians",
    "gmm40",
]
