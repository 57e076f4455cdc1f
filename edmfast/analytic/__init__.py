"""Exact densities: energies, scores and denoisers known at every noise level, and systems known without noise."""

from edmfast.analytic.gaussian_mixture import GaussianMixture, gmm40
from edmfast.analytic.many_well import ManyWell
from edmfast.analytic.systems import DoubleWellPairs, LennardJones

__all__ = ["DoubleWellPairs", "GaussianMixture", "LennardJones", "ManyWell", "gmm40"]
