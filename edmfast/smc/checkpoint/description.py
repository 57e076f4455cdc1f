"""The description of a run that a checkpoint holds, by which a run that resumes knows its own checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast.smc.checkpoint.fingerprint import fingerprint
from edmfast.smc.checkpoint.probes import probe, tolerance_of
from edmfast.smc.run import Run


def describe_run(
    run: Run, target: Any, size: Sequence[int], first_population: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what two runs must agree in to be the same one, as JSON can hold it.

    size: P, N and the shape of a sample. It and first_population are those of the whole run, of which this process
    may hold a part.
    """
    populations, particles, *shape = size
    return {
        "sigmas": [*run.schedule.all_levels],
        "shape": shape,
        "particles": particles,
        "populations": populations,
        "first_population": first_population,
        "proposal": "; ".join(repr(part.proposal) for part in run.phases.parts),
        "law": run.fk.description,
        "resampling": run.populations.resampling,
        "ess_threshold": run.schedule.ess_threshold,
        # JSON has no infinity.
        "sigma_range": [str(bound) for bound in run.schedule.sigma_range],
        "correction": repr(run.moves),
        "seed": run.seed,
        "genealogy": run.genealogy,
        "dtype": str(dtype),
        # the second entry is empty: files of earlier versions have a second model there
        "target": fingerprint([target, None]),
    }


def describe_numbers(
    target: Any,
    levels: Sequence[float],
    size: Sequence[int],
    batch_size: int | None,
    like: Tensor,
) -> dict[str, Any]:
    """Return numbers of the target at fixed states, which tell apart targets of one description.

    size: P, N and the shape of a sample, of the whole run. like: a tensor of the dtype and device of the states.
    """
    return {
        "probes": probe(target, levels, size, batch_size, like),
        "tolerance": tolerance_of(target, like.dtype),
    }
