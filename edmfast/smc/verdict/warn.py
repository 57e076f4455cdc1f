"""Warn about the weights of a finished run, or raise."""

from __future__ import annotations

import warnings

from torch import Tensor

from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN
from edmfast.smc.particles.data import NOT_FINITE, ParticleData
from edmfast.smc.verdict.judge import judge


class DegenerateWeightsWarning(UserWarning):
    """Warning that weights or states were NaN or infinite, or that all weights of a population were zero."""


class DoubtfulWeightsWarning(UserWarning):
    """Warning that the record of a run speaks against its weights.

    `Particles.verdict` says why, and what to change.
    """


def warn_about_run(
    particles: ParticleData, on_degenerate: str, *, stacklevel: int, pooled: bool = True
) -> None:
    """Warn about weights that were NaN, infinite or all zero, or else about a verdict that is not ok.

    on_degenerate: "raise" turns the first kind into a RuntimeError. "ignore" leaves out all warnings.
    pooled: populations are expected to agree on log Z. It is False where each population answers a different
    question.
    """
    if on_degenerate == "ignore":
        return
    warn_about_flags(particles.degenerate, on_degenerate, stacklevel=stacklevel + 1)
    if 2 * int(particles.degenerate.ne(0).sum()) >= len(particles.degenerate):
        return  # the first warning says all that there is to say about these weights
    # The flags have just been reported.
    verdict = judge(particles, flags=False, pooled=pooled)
    if not verdict:
        warnings.warn(verdict.short, DoubtfulWeightsWarning, stacklevel=stacklevel)


def warn_about_flags(degenerate: Tensor, on_degenerate: str, *, stacklevel: int) -> None:
    """Warn about weights that were NaN, infinite or all zero, from the flags int32 [P].

    Raises RuntimeError instead with on_degenerate="raise".
    """
    flags = degenerate.cpu()
    if not flags.any():
        return
    counts = {
        "NaN weights": int((flags & NAN_SEEN).ne(0).sum()),
        "all weights zero": int((flags & COLLAPSED).ne(0).sum()),
        "infinite weights": int((flags & INFINITE).ne(0).sum()),
        "states that are not finite": int((flags & NOT_FINITE).ne(0).sum()),
    }
    faults = ", ".join(
        f"{fault} in {count} of {len(flags)} populations"
        for fault, count in counts.items()
        if count
    )
    message = f"degenerate weights: {faults}"
    if on_degenerate == "raise":
        raise RuntimeError(message)
    warnings.warn(message, DegenerateWeightsWarning, stacklevel=stacklevel)
