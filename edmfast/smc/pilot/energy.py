"""The pilot run of an energy: the mean curvature of every level and the spread of every step's log-weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edmfast.ops import rng_state
from edmfast.smc.feynman_kac.evaluate import evaluate
from edmfast.smc.options import RunOptions
from edmfast.smc.pilot.record import Array, Pilot
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import warn_about_flags
from edmfast.targets.protocols import Target


def run_pilot(
    target: Target,
    shape: Sequence[int],
    fine: Array,
    particles: int,
    populations: int,
    seed: int,
) -> Pilot:
    """Return the record of a run that energies weigh. fine: its levels. Other arguments as in `calibrate`."""
    curvatures: list[float] = []

    def record(info: dict[str, Any]) -> None:
        _check_finite(info)
        evaluation = evaluate(
            target,
            info["x"],
            info["sigma"],
            # Another seed makes these probes independent of those that moved the particles.
            rng=rng_state((seed + 1) % 2**64, int(info["i"]), info["x"].device),
            probe=True,
        )
        assert evaluation.kernel is not None
        # The particles follow the target only with their weights.
        weights = torch.softmax(info["log_weights"], dim=1)
        mean = (weights * evaluation.kernel).sum(1).mean()
        if not bool(mean.isfinite()):
            raise ValueError(
                f"the curvature of the target's score is {float(mean)} at sigma = {info['sigma']:g}: the score "
                "must be differentiable and its derivative finite there"
            )
        curvatures.append(float(mean) * info["sigma"] ** 2)

    run = sample(
        target,
        shape,
        fine.tolist(),
        weights="energy",
        particles=particles,
        populations=populations,
        seed=seed,
        callback=record,
        # the pilot looks for levels at which the weights go bad, so a bad verdict on it is no fault
        options=RunOptions(on_degenerate="ignore"),
    )
    warn_about_flags(run.degenerate, "warn", stacklevel=4)
    # the level at the start has no step that leads to it
    sd = run.log_weight_sd[1:].square().mean(1).sqrt().cpu().numpy()
    return Pilot(fine, sd, np.array(curvatures))


def _check_finite(info: dict[str, Any]) -> None:
    """Raise ValueError for a NaN energy, or for a score that is not finite at a finite energy, naming the level.

    An infinite energy is a wall and no fault.
    """
    energy, score = info["energy"], info["score"]
    faulty = energy.isnan() | (~score.isfinite().flatten(2).all(2) & (energy < math.inf))
    if bool(faulty.any()):
        raise ValueError(
            f"the energy of the target is NaN or its score is not finite at sigma = {info['sigma']:g}, for "
            f"{int(faulty.sum())} of {faulty.numel()} particles of the pilot run"
        )
