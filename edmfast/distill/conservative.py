"""The share of a teacher's field that no energy can follow, where training has the Student-t noise of PFGM++.

The perfect denoiser of PFGM++ at finite D is not conservative: (D(x; sigma) - x)/sigma² is no gradient. An energy
that is distilled from it learns the nearest gradient field. The asymmetry NAsym of the teacher's Jacobian, from 0
to 1, says how much is left over; see `edmfast.models.asymmetry`.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch

from edmfast.distill.batch import BatchMaker, condition_of
from edmfast.models.asymmetry import field_asymmetry
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma

_ROWS = 32
"""The number of states at which the teacher is measured."""
_NOTICEABLE = 1e-3
"""The asymmetry from which a warning says that the student loses a part of the teacher."""


class NonConservativeWarning(UserWarning):
    """Warning that an energy was distilled from a teacher whose field is no gradient, as those of PFGM++."""


def teacher_asymmetry(maker: BatchMaker) -> float | None:
    """Return the mean NAsym of the teacher's score at states of training, and None where it cannot be measured.

    It is measured for finite noise_dof only, and a teacher without second derivatives cannot be measured.
    """
    if maker.model is None or maker.config.noise_dof == math.inf:
        return None
    seed = (maker.config.seed + 1) % 2**64
    config = dataclasses.replace(maker.config, seed=seed, batch_size=_ROWS, mode="dsm")
    batch = BatchMaker(maker.data, maker.model, config)()
    teacher, sigma, condition = maker.model, batch["sigma"], condition_of(batch)

    def score(x: torch.Tensor) -> torch.Tensor:
        denoised = call_denoiser(teacher, x, sigma, **condition)
        if not denoised.requires_grad:
            raise ValueError("the teacher's denoised states are detached")
        return (denoised - x) / expand_sigma(sigma, x) ** 2

    try:
        measured = field_asymmetry(score, batch["x"])
    except (RuntimeError, ValueError):
        return None
    # the levels differ, and the ratio of means would be that of the lowest one
    return float(measured.normalised.mean())


def warn_of_asymmetry(asymmetry: float | None, stacklevel: int) -> None:
    """Warn where the teacher's asymmetry is noticeable."""
    if asymmetry is None or asymmetry < _NOTICEABLE:
        return
    warnings.warn(
        "the teacher's field is no gradient: the antisymmetric part of its Jacobian has the share "
        f"{asymmetry:.2g} of the squared norm, and the energy has learned the nearest gradient field. This is a "
        "property of PFGM++ at small D: take a teacher of larger D, or a student without an energy",
        NonConservativeWarning,
        stacklevel=stacklevel + 1,
    )
