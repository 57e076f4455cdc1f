"""Exact densities: mixtures, points and wells at every noise level, and particle systems without noise."""

from edmfast.analytic.gaussian_mixture import GaussianMixture, gmm40
from edmfast.analytic.many_well import ManyWell
from edmfast.analytic.mixture_of_gaussians import MixtureOfGaussians
from edmfast.analytic.point_potential import PointPotential
from edmfast.analytic.point_set import PointSet
from edmfast.analytic.systems import DoubleWellPairs, LennardJones

__all__ = [
    "DoubleWellPairs",
    "GaussianMixture",
    "LennardJones",
    "ManyWell",
    "MixtureOfGaussians",
    "PointPotential",
    "PointSet",
    "gmm40",
]
