"""Fits kappa and a variance-equalised schedule with one fine pilot run.

The pilot takes `pilot_steps` small steps over the same range and records, per level, the mean curvature
g(sigma) = sigma² tr(grad S)/(A d) and the standard deviation sd of the incremental log-weight. The new
levels lie with density ∝ sqrt(sd) plus a 5 % floor in log sigma, so that steps go where modes separate;
kappa = 1 + (tau²/s²) g(s), clamped to [u²/(2 s²), 1]. Reusing a calibration costs no evaluation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast.ops import rng_state
from edmfast.smc.calibration import Calibration
from edmfast.smc.evaluate import evaluate
from edmfast.smc.sampler import sample
from edmfast.smc.schedule import check_sigmas

_FLOOR = 0.05


def calibrate(
    target: Any,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    particles: int = 1000,
    populations: int = 1,
    pilot_steps: int = 128,
    seed: int = 0,
    equalise: bool = True,
) -> Calibration:
    """A `Calibration` with as many levels as `sigmas`, between the same ends, for `smc.sample`.

    equalise: False keeps the given levels and only fits kappa. populations: of the pilot, as many as the
    target has conditions or exponents; they share one calibration, of their mean. Costs pilot_steps + 1
    evaluations of `particles` particles for each, with one Hutchinson probe. Raises as `smc.sample` does,
    and ValueError for fewer than 2 pilot steps.
    """
    levels = check_sigmas(sigmas)
    tail = (0.0,) if levels[-1] == 0 else ()
    levels = levels[:-1] if tail else levels
    if pilot_steps < 2:
        raise ValueError(f"pilot_steps must be at least 2, got {pilot_steps}")
    # the pilot refines the given levels evenly, so it keeps their shape
    position = np.linspace(0, len(levels) - 1, pilot_steps + 1)
    fine = np.exp(np.interp(position, np.arange(len(levels)), np.log(levels)))
    fine[0], fine[-1] = levels[0], levels[-1]
    bends: list[float] = []

    def record(info: dict[str, Any]) -> None:
        found = evaluate(
            target,
            info["x"],
            info["sigma"],
            rng=rng_state(seed + 1, int(info["i"]), info["x"].device),
            probe=True,
        )
        assert found.curvature is not None
        weights = torch.softmax(info["log_weights"], dim=1)
        mean = (weights * found.curvature).sum(1).mean()
        bends.append(float(mean) * info["sigma"] ** 2)

    pilot = sample(
        target,
        shape,
        fine.tolist(),
        particles=particles,
        populations=populations,
        seed=seed,
        callback=record,
    )
    sd = pilot.log_weight_sd[1:].mean(1).cpu().numpy()
    log_fine = np.log(fine)
    if equalise:
        root = np.sqrt(np.maximum(sd, 1e-8))
        density = root + _FLOOR * root.mean()
        share = np.concatenate([[0.0], np.cumsum(density)])
        wanted = np.linspace(0.0, share[-1], len(levels))
        chosen = np.exp(np.interp(wanted, share, log_fine))
        chosen[0], chosen[-1] = levels[0], levels[-1]
    else:
        chosen = np.asarray(levels)
    kappa, predicted = [], []
    rate = sd / -np.diff(log_fine)
    for s, u in itertools.pairwise(chosen):
        bend = float(np.interp(-math.log(s), -log_fine, bends))
        kappa.append(min(1.0, max(0.5 * (u / s) ** 2, 1.0 + (1.0 - (u / s) ** 2) * bend)))
        middle = 0.5 * (math.log(s) + math.log(u))
        local = float(np.interp(-middle, -log_fine[:-1], rate))
        predicted.append(local * math.log(s / u))
    return Calibration((*map(float, chosen), *tail), tuple(map(float, kappa)), tuple(predicted))
