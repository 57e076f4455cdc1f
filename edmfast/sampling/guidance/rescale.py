"""The rescale of guidance, which gives the guided prediction the standard deviation of the conditional one.

With P_c the conditional prediction, P_g the guided one and a share phi, for each sample

    P = r P_g,   r = phi std(P_c) / std(P_g) + 1 - phi,

where std is over all elements of the sample. A prediction is linear in the denoised states, P ∝ D - a x, with
a = 0 for the denoised states themselves, 1 for the noise eps, and 1 / (1 + sigma²) for v of the
variance-preserving process. So D = r D_g + (1 - r) a x.
Source: Lin et al. 2023, arXiv 2305.08891, equations 14 to 16, which rescale the output of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.models.preconditioning import expand_sigma
from edmfast.sampling.moments import standard_deviations

PREDICTIONS = ("denoised", "epsilon", "v")


def as_prediction(value: str) -> str:
    """Return the name of a prediction. Raises ValueError for an unknown one."""
    if value not in PREDICTIONS:
        raise ValueError(
            f"rescale_prediction must be one of {', '.join(PREDICTIONS)}, got {value!r}"
        )
    return value


def rescaled(
    guided: Tensor,
    conditional: Tensor,
    x: Tensor,
    sigma: float | Tensor,
    share: float,
    prediction: str,
) -> Tensor:
    """Return the guided states [B, *shape] with the rescale of a prediction; share: phi, from 0 to 1."""
    anchor = None
    if prediction != "denoised":
        anchor = x if prediction == "epsilon" else x / (1 + expand_sigma(sigma, x).square())
        guided, conditional = guided - anchor, conditional - anchor
    spread, wanted = standard_deviations([guided, conditional])
    # A sample of one element, or of equal ones, has no standard deviation to scale.
    ratio = torch.where(spread > 0, wanted / spread, 1.0)
    factor = unsqueeze_like((share * ratio + (1 - share)).to(guided.dtype), guided)
    return guided * factor if anchor is None else guided * factor + anchor
