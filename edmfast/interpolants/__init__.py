"""Flow models and stochastic interpolants: conversion to and from denoisers, ODE, SDEs, likelihood and losses.

convert              from_velocity and to_velocity; one_sided has the formulas
flow_times           noise levels from times, and the time shift
interpolant          paths between two distributions; model holds their fields
solve, likelihood    the probability flow, the SDEs, and log-densities
losses               what networks of the fields are trained with
gaussian_mixtures    the fields between two mixtures of Gaussians, exactly
"""

from edmfast.interpolants.convert import from_velocity, to_velocity
from edmfast.interpolants.flow_times import sigmas_from_times, times_from_sigmas
from edmfast.interpolants.gaussian_mixtures import GaussianMixtureInterpolant
from edmfast.interpolants.interpolant import Interpolant
from edmfast.interpolants.likelihood import FlowLikelihood, log_likelihood
from edmfast.interpolants.losses import interpolant_loss
from edmfast.interpolants.model import InterpolantModel, OneSidedModel
from edmfast.interpolants.solve import solve_ode, solve_sde

__all__ = [
    "FlowLikelihood",
    "GaussianMixtureInterpolant",
    "Interpolant",
    "InterpolantModel",
    "OneSidedModel",
    "from_velocity",
    "interpolant_loss",
    "log_likelihood",
    "sigmas_from_times",
    "solve_ode",
    "solve_sde",
    "times_from_sigmas",
    "to_velocity",
]
