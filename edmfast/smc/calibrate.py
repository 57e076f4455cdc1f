"""Fits kappa, a variance-equalised schedule and the end of weighting with one fine pilot run.

The pilot takes `pilot_steps` small steps over the same range and records, per level, the mean curvature
g(sigma) = sigma² tr(grad S)/(A d) and the standard deviation sd of the incremental log-weight. The new
levels lie with density ∝ sqrt(sd) plus a 5 % floor in log sigma, so that steps go where modes separate;
kappa = 1 + (tau²/s²) g(s), clamped to [u²/(2 s²), 1]. Reusing a calibration costs no evaluation.

sigma_lo, where weighting ends. Steps towards small sigma stop changing the law of exact energies, so their
sd per unit of log sigma falls to nothing; that of a learned energy stays up or rises, as its differences are
noise there. The rule: where sd at the lowest levels is still half of its highest, sigma_lo is the lowest level
down to which the planned steps have a total variance of 3 nats², which leaves 64 particles 10 to 25 % of their
ancestors; more steps bring it down. Otherwise there is no cut. With one, the weighted range alone is equalised,
and a third as many steps as were given below it (two at least) are left for the rest, at the levels of Karras
et al. 2022 (arXiv 2206.00364).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.ops import rng_state
from edmfast.smc.arguments import as_counts, check_sigmas
from edmfast.smc.calibration import Calibration
from edmfast.smc.feynman_kac.evaluate import evaluate
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import warn_about_flags
from edmfast.targets.scores import has_energy, missing_energy

_FLOOR = 0.05
_VARIANCE = 3.0
_TAIL_SHARE = 3
_KARRAS_RHO = 7.0
_LOWEST_SHARE = 0.03
"""Of the pilot's steps, those at the end that tell a learned energy by its noise."""
_NOISY = 0.5
"""Of the highest sd per unit of log sigma. At the lowest levels a kernel density of digits, its square and
products of two classes have 0.01 to 0.45 of it, energies distilled by networks 0.6 to 1."""
_SMOOTHED_STEPS = 5

Array = npt.NDArray[np.float64]


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
    sigma_lo: float | None = None,
) -> Calibration:
    """A `Calibration` with as many levels as `sigmas`, between the same ends, for `smc.sample`.

    populations: of the pilot, one for each condition of the target where it has several. equalise: False keeps
    the given levels and only fits kappa and sigma_lo. sigma_lo: where weighting is to end instead of where the
    rule above has it; 0 for nowhere. Costs pilot_steps + 1 evaluations of `particles` particles of each
    population, each with one Hutchinson probe. Raises as `smc.sample` does, and ValueError for fewer than 2
    pilot steps or a sigma_lo outside the levels.
    """
    if not has_energy(target):
        raise missing_energy(target)
    levels = check_sigmas(sigmas)
    tail = (0.0,) if levels[-1] == 0 else ()
    levels = levels[:-1] if tail else levels
    particles, populations = as_counts(particles, populations)
    pilot_steps, seed = as_int("pilot_steps", pilot_steps, least=2), as_seed(seed)
    sigma_lo = None if sigma_lo is None else as_float("sigma_lo", sigma_lo)
    if sigma_lo is not None and sigma_lo != 0 and not levels[-1] <= sigma_lo < levels[0]:
        raise ValueError(
            f"sigma_lo must be 0 or in [{levels[-1]:g}, {levels[0]:g}), got {sigma_lo}"
        )
    pilot = _run_pilot(target, shape, levels, particles, populations, pilot_steps, seed)
    if sigma_lo is None:
        sigma_lo = pilot.end_of_weights(levels, equalise)
    chosen = pilot.schedule(levels, sigma_lo, equalise)
    if sigma_lo > 0:
        sigma_lo = min(level for level in chosen if level >= sigma_lo)
    kappa = []
    for s, u in itertools.pairwise(chosen):
        bend = float(np.interp(-math.log(s), -np.log(pilot.levels), pilot.bends))
        kappa.append(min(1.0, max(0.5 * (u / s) ** 2, 1.0 + (1.0 - (u / s) ** 2) * bend)))
    return Calibration((*chosen, *tail), tuple(kappa), tuple(pilot.predict(chosen)), sigma_lo)


def _run_pilot(
    target: Any,
    shape: Sequence[int],
    levels: list[float],
    particles: int,
    populations: int,
    steps: int,
    seed: int,
) -> _Pilot:
    # the pilot refines the given levels evenly, so it keeps their shape
    position = np.linspace(0, len(levels) - 1, steps + 1)
    fine = np.exp(np.interp(position, np.arange(len(levels)), np.log(levels)))
    fine[0], fine[-1] = levels[0], levels[-1]
    bends: list[float] = []

    def record(info: dict[str, Any]) -> None:
        _check_finite(info)
        found = evaluate(
            target,
            info["x"],
            info["sigma"],
            rng=rng_state((seed + 1) % 2**64, int(info["i"]), info["x"].device),
            probe=True,
        )
        assert found.curvature is not None
        weights = torch.softmax(info["log_weights"], dim=1)
        mean = (weights * found.curvature).sum(1).mean()
        if not bool(mean.isfinite()):
            raise ValueError(
                f"the curvature of the target's score is {float(mean)} at sigma = {info['sigma']:g}: the score "
                "must be differentiable and its derivative finite there"
            )
        bends.append(float(mean) * info["sigma"] ** 2)

    run = sample(
        target,
        shape,
        fine.tolist(),
        particles=particles,
        populations=populations,
        seed=seed,
        callback=record,
        # the pilot looks for the levels at which weights go bad: that it finds some is no fault of it
        on_degenerate="ignore",
    )
    warn_about_flags(run.degenerate, "warn", stacklevel=4)
    sd = run.log_weight_sd[1:].square().mean(1).sqrt().cpu().numpy()
    return _Pilot(fine, sd, np.array(bends))


def _check_finite(info: dict[str, Any]) -> None:
    """ValueError for a NaN energy, or a score that is not finite where there is weight, naming the level. An
    infinite energy is a wall."""
    energy, score = info["energy"], info["score"]
    wrong = energy.isnan() | (~score.isfinite().flatten(2).all(2) & (energy < math.inf))
    if bool(wrong.any()):
        raise ValueError(
            f"the target's energy or score is NaN or its score infinite at sigma = {info['sigma']:g}, in "
            f"{int(wrong.sum())} of {wrong.numel()} particles of the pilot run"
        )


@dataclass(frozen=True)
class _Pilot:
    """Fine levels [K + 1], the sd of each step's increment [K] and the bend g at each level [K + 1]."""

    levels: Array
    sd: Array
    bends: Array

    def end_of_weights(self, levels: list[float], equalise: bool) -> float:
        """sigma_lo by the rule above; 0 for no cut."""
        rate = np.sqrt(_smoothed((self.sd / -np.diff(np.log(self.levels))) ** 2))
        lowest = max(1, round(_LOWEST_SHARE * len(rate)))
        if not np.isfinite(rate).all() or rate[-lowest:].mean() < _NOISY * rate.max():
            return 0.0
        candidates = self.levels[1:] if equalise else np.array(levels[1:])
        for candidate in map(float, candidates[::-1]):
            planned = self.schedule(levels, candidate, equalise)
            steps = zip(planned[1:], self.predict(planned), strict=True)
            if sum(sd**2 for end, sd in steps if end >= candidate) <= _VARIANCE:
                return candidate if candidate > levels[-1] else 0.0
        return levels[1]

    def schedule(self, levels: list[float], sigma_lo: float, equalise: bool) -> list[float]:
        """As many levels between the same ends; sigma_lo is one of them where it is positive."""
        if not equalise:
            return levels
        below = sum(level < sigma_lo for level in levels)
        rest = min(below, max(2, below // _TAIL_SHARE), len(levels) - 2)
        lowest = sigma_lo if rest else levels[-1]
        inside = self.levels[1:] >= lowest * (1 - 1e-9)
        inside[0] = True
        root = np.sqrt(np.maximum(self.sd[inside], 1e-8))
        share = np.concatenate([[0.0], np.cumsum(root + _FLOOR * root.mean())])
        nodes = np.log(self.levels[: len(share)])
        wanted = np.linspace(0.0, np.interp(-math.log(lowest), -nodes, share), len(levels) - rest)
        chosen = np.exp(np.interp(wanted, share, nodes)).tolist()
        chosen[0], chosen[-1] = levels[0], lowest
        if rest:
            ramp = np.linspace(
                lowest ** (1 / _KARRAS_RHO), levels[-1] ** (1 / _KARRAS_RHO), rest + 1
            )
            chosen += [*(ramp[1:-1] ** _KARRAS_RHO).tolist(), levels[-1]]
        return [float(level) for level in chosen]

    def predict(self, chosen: list[float]) -> list[float]:
        """sd of the increment of each step between the chosen levels, in nats."""
        log_fine = np.log(self.levels)
        rate = self.sd / -np.diff(log_fine)
        predicted = []
        for s, u in itertools.pairwise(chosen):
            middle = 0.5 * (math.log(s) + math.log(u))
            local = float(np.interp(-middle, -log_fine[:-1], rate))
            predicted.append(local * math.log(s / u))
        return predicted


def _smoothed(values: Array) -> Array:
    """Running mean over a few neighbours, fewer at the ends."""
    window = np.ones(min(_SMOOTHED_STEPS, len(values)))
    total: Array = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones_like(values), window, mode="same")
