"""The noise of PFGM++: multivariate Student-t noise, whose scale is drawn once for each sample.

PFGM++ noises a sample of N elements by the law p(x | y) ∝ (|x - y|² + r²)^(-(N + D)/2) with r = sigma sqrt(D).
This is exactly y + sigma t, where t has the multivariate Student-t law with D degrees of freedom:

    t = z / sqrt(c/D),  z ~ N(0, I),  c ~ chi-square with D degrees of freedom.

The radius R = |x - y| has R²/(R² + r²) ~ Beta(N/2, D/2), which is the form in the paper. D = inf gives t = z, the
Gaussian noise of EDM. Source: Xu et al. 2023, "PFGM++: Unlocking the potential of physics-inspired generative
models", arXiv 2302.04265, equation 3 and appendix B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.chi_square import chi_square_quantile, uniform_of_words
from edmfast._internal.numbers import as_float
from edmfast.ops import standard_normal
from edmfast.ops.noise.reference import counter_words

_STREAM = 15
"""No other draw of the package uses this stream of the counter."""
_RADII = 1
"""The radii have a population of the counter of their own, beside that of the normals, which is 0."""


def as_dof(name: str, value: Any) -> float:
    """Return degrees of freedom as a float, which may be infinite.

    Raises TypeError for anything but a number, and ValueError for a number that is not positive.
    """
    return as_float(name, value, positive=True, finite=False)


def student_t_scale(u: Tensor, dof: float) -> Tensor:
    """Return 1/sqrt(c/D), float64 like u, where c is the chi-square quantile of the uniforms u inside (0, 1).

    dof: the degrees of freedom D, positive. At D = inf the scale is 1.
    """
    if dof == math.inf:
        return torch.ones_like(u)
    return (dof / chi_square_quantile(u, dof)).sqrt()


def student_t(like: Tensor, dof: float, seeds: Tensor, first_sample: int = 0) -> Tensor:
    """Return Student-t noise t of unit scale in the shape, dtype and device of `like` [B, *shape].

    dof: the degrees of freedom D, positive; math.inf for Gaussian noise.
    seeds: int64 [1], with which sample b has the index first_sample + b, or [B], one seed for each sample, which
        has the index 0. A sample depends on its seed and index alone.
    """
    if len(seeds) == 1:
        return _of_one_seed(like, dof, seeds, first_sample)
    rows = zip(like.split(1), seeds.split(1), strict=True)
    return torch.cat([_of_one_seed(row, dof, seed, 0) for row, seed in rows])


def _of_one_seed(like: Tensor, dof: float, seed: Tensor, first: int) -> Tensor:
    # the pair stays on the device, so that nothing waits for it
    rng = torch.cat([seed, torch.zeros_like(seed)])
    normals = standard_normal(like[None], rng=rng, stream=_STREAM, first_particle=first)[0]
    if dof == math.inf:
        return normals
    words = counter_words((1, like.shape[0], 1), rng, _STREAM, _RADII, first)
    scale = student_t_scale(uniform_of_words(words[0].flatten(), words[1].flatten()), dof)
    # the product in float64 keeps the scale of half precisions from overflowing before it must
    wide = normals.double() * scale.reshape(-1, *[1] * (like.dim() - 1))
    return wide.to(like.dtype)
