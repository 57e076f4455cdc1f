"""Wrappers that make denoisers of networks which predict noise or v, with k-diffusion's names and arguments.

A wrapper is called as wrapper(x [B, *shape], sigma, **conditions) and returns the denoised states. It scales the
input to unit variance, translates sigma to the network's time, and turns the prediction into clean states:

    noise, eps(y, t):   D = x - sigma eps
    v-prediction:       D = x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) v,        y = x / sqrt(1 + sigma^2)

Sources: Ho et al. 2020, arXiv 2006.11239 (noise); Salimans and Ho 2022, arXiv 2202.00512 (v); Karras et al. 2022,
arXiv 2206.00364, table 1 (the scaling).
"""

from edmfast.k_diffusion.external.noise import (
    CompVisDenoiser,
    DiscreteEpsDDPMDenoiser,
    OpenAIDenoiser,
)
from edmfast.k_diffusion.external.schedule import DiscreteSchedule
from edmfast.k_diffusion.external.velocity import (
    CompVisVDenoiser,
    DiscreteVDDPMDenoiser,
    VDenoiser,
)

__all__ = [
    "CompVisDenoiser",
    "CompVisVDenoiser",
    "DiscreteEpsDDPMDenoiser",
    "DiscreteSchedule",
    "DiscreteVDDPMDenoiser",
    "OpenAIDenoiser",
    "VDenoiser",
]
