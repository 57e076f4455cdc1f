"""The modules of k-diffusion under their own names, so that code written for it needs one other import.

import edmfast.k_diffusion as K

model = K.external.CompVisDenoiser(network)
x = K.sampling.sample_dpmpp_2m(model, x, model.get_sigmas(20))
"""

from __future__ import annotations

from typing import Any

from edmfast.k_diffusion import external, layers, sampling, utils
from edmfast.k_diffusion.layers import Denoiser

__all__ = ["Denoiser", "external", "layers", "sampling", "utils"]

_ELSEWHERE = ("augmentation", "config", "evaluation", "gns", "models")


def __getattr__(name: str) -> Any:
    """Raise AttributeError, which says for the modules of k-diffusion that are not here what is."""
    absent = f"module 'edmfast.k_diffusion' has no attribute {name!r}"
    if name in _ELSEWHERE:
        absent += (
            ": it has the modules external, layers, sampling and utils of k-diffusion. Networks, configurations, "
            "augmentation and evaluation stay in k_diffusion; edmfast.models has networks, and edmfast.distill "
            "trains"
        )
    raise AttributeError(absent)
