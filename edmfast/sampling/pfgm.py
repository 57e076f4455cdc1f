"""The prior of PFGM++, from which every sampler of this package starts when the model was trained with finite D.

The samplers themselves do not change: the noise level is sigma = r/sqrt(D), and the probability flow of PFGM++ is
dx/dsigma = (x - D(x; sigma))/sigma, as that of EDM. Only the noise has another law; see
`edmfast.models.student_t`.
Source: Xu et al. 2023, arXiv 2302.04265, section 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_shape
from edmfast._internal.seeds import as_seeds
from edmfast.models.student_t import as_dof, student_t


def student_t_prior(
    shape: Sequence[int],
    sigma_max: float,
    dof: float,
    *,
    seed: int | Tensor | Sequence[int] | None = None,
    first_sample: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return starting states of PFGM++, sigma_max z / sqrt(c/D), where each sample has one draw of c.

    z are standard normals and c has the chi-square distribution with D degrees of freedom, so that a sample has
    the multivariate Student-t law over all its elements. A sample depends on its seed and its index alone, and not
    on the other samples of the batch. For D = inf the states are Gaussian. The numbers of a seed are close to each
    other for all large D, because every D takes the same z and the same uniform number.

    The noise of training has the same law at every level: `distill` draws it by `DistillConfig(noise_dof=D)`, and
    `data + student_t_prior(data.shape, sigma, D, seed=...)` noises data at one level.

    Source: Xu et al. 2023, arXiv 2302.04265, equation 3 and algorithm 1.

    Args:
        shape: [B, *shape], the sizes of the batch.
        sigma_max: the noise level of the states in the units of the data, positive.
        dof: D, the degrees of freedom, positive. math.inf gives the Gaussian prior of EDM.
        seed: a 64-bit integer for the whole batch, or a sequence or tensor of B integers, one for each sample.
            None draws one from torch's default CPU generator, which torch.manual_seed repeats.
        first_sample: with one seed, the index of the first sample, where a batch is split over calls.
        dtype: a floating dtype, torch's default by default.
        device: the device of the states.

    Raises:
        TypeError: numbers or a dtype of another kind.
        ValueError: fewer than two sizes, numbers out of range, or another number of seeds than samples.
    """
    sizes = as_shape("shape", shape)
    if len(sizes) < 2:
        raise ValueError(f"shape must be [B, *shape] with at least 2 sizes, got {[*sizes]}")
    sigma_max = as_float("sigma_max", sigma_max, positive=True)
    dof = as_dof("dof", dof)
    first_sample = as_int("first_sample", first_sample, least=0)
    like = torch.empty(sizes, dtype=dtype, device=device)
    if not like.is_floating_point():
        raise TypeError(f"dtype must be a floating dtype, got {dtype}")
    check_level("sigma_max", sigma_max, like.dtype)
    return student_t(like, dof, as_seeds(seed, like), first_sample) * sigma_max
