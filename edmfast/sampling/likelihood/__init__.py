"""The log-likelihood of samples by the probability-flow ODE, under k-diffusion's name."""

from edmfast.sampling.likelihood.log_likelihood import log_likelihood

__all__ = ["log_likelihood"]
