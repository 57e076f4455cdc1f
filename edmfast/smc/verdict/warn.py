"""Warnings about the weights of a finished run."""

from __future__ import annotations

import warnings

from torch import Tensor

from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN
from edmfast.smc.particles.data import NOT_FINITE, ParticleData
from edmfast.smc.verdict.judge import judge

ON_DEGENERATE = ("warn", "raise", "ignore")


class DegenerateWeightsWarning(UserWarning):
    """Some weights or states were NaN or infinite, or a whole population had weight zero."""


class DoubtfulWeightsWarning(UserWarning):
    """The record of a run speaks against its weights: `Particles.verdict` says what, and what to change."""


def warn_about_run(
    particles: ParticleData, on_degenerate: str, *, stacklevel: int, pooled: bool = True
) -> None:
    """Warn of bad flags, then of a verdict that is not ok; with "raise", RuntimeError for flags alone.

    pooled: whether populations are meant to agree on log Z, and not each an answer of its own.
    """
    if on_degenerate == "ignore":
        return
    warn_about_flags(particles.degenerate, on_degenerate, stacklevel=stacklevel + 1)
    if 2 * int(particles.degenerate.ne(0).sum()) >= len(particles.degenerate):
        return  # of these weights there is no more to say
    verdict = judge(particles, flags=False, pooled=pooled)
    if not verdict:
        warnings.warn(verdict.short, DoubtfulWeightsWarning, stacklevel=stacklevel)


def warn_about_flags(degenerate: Tensor, on_degenerate: str, *, stacklevel: int) -> None:
    """Warn of weights that were NaN, infinite or all zero; RuntimeError with "raise"."""
    flags = degenerate.cpu()
    if not flags.any():
        return
    counts = {
        "NaN weights": int((flags & NAN_SEEN).ne(0).sum()),
        "all weights zero": int((flags & COLLAPSED).ne(0).sum()),
        "infinite weights": int((flags & INFINITE).ne(0).sum()),
        "states that are not finite": int((flags & NOT_FINITE).ne(0).sum()),
    }
    told = ", ".join(
        f"{name} in {n} of {len(flags)} populations" for name, n in counts.items() if n
    )
    if on_degenerate == "raise":
        raise RuntimeError(f"degenerate weights: {told}")
    warnings.warn(f"degenerate weights: {told}", DegenerateWeightsWarning, stacklevel=stacklevel)
