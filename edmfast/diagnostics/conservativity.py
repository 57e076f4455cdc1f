"""The asymmetry of the Jacobian of a denoiser's score, at random probes: is the score a gradient?

The measure is that of `edmfast.models.asymmetry`. For a perfect denoiser of Gaussian noise it is 0, because the
score is the gradient of a log-density. The perfect denoiser of PFGM++ at finite D is no such gradient, so that it
has an asymmetry of its own, which no energy can follow.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, as_tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast.models.asymmetry import Asymmetry, field_asymmetry
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser

__all__ = ["Asymmetry", "field_asymmetry", "score_asymmetry"]


def score_asymmetry(
    model: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    *,
    probes: int = 1,
    seed: int = 0,
    method: str = "auto",
    **condition: Any,
) -> Asymmetry:
    """Estimate the asymmetry of the Jacobian of a denoiser's score (D(x; sigma) - x) / sigma² at x.

    The method of the products with the Jacobian is chosen by the model, so that energies with fused norms and
    attention, which have no third derivatives, can be measured too; see `field_asymmetry`.

    Sources: Hutchinson 1990; Chao et al. 2023, arXiv 2209.12753.

    Args:
        model: the denoiser, called as model(x, sigma [B], **condition) -> x_0, differentiable in reverse mode.
        x: the noisy states [B, *shape].
        sigma: their noise levels in units of x, positive: a float, [] or [B].
        probes: the number of random probes per sample, at least 1.
        seed: the seed of the probes; those of sample k depend on (seed, k) alone.
        method: "auto", "reverse", "forward" or "difference", see `field_asymmetry`.
        condition: keyword conditions for the model.

    Returns:
        An `Asymmetry` of tensors [B] in the dtype of x, with the method and the error of its products.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: a sigma that is not positive, probes < 1, an unknown method, or a model that returns another
            shape or is not differentiable.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode, or the model does not
            allow the method.
    """
    if not isinstance(sigma, Tensor) or sigma.dim() == 0:
        sigma = as_float("sigma", sigma, positive=True)
        check_level("sigma", sigma, x.dtype)
    levels = as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
    if not (levels > 0).all():
        raise ValueError(f"sigma must be positive, got {float(levels.min())}")
    variance = expand_sigma(levels, x) ** 2

    def score(point: Tensor) -> Tensor:
        return (call_denoiser(model, point, levels, **condition) - point) / variance

    # a score changes over the distance of the noise
    return field_asymmetry(score, x, probes=probes, seed=seed, method=method, scale=levels)
