"""Fit kappa, the noise levels and the end of weighting to a target, by one fine pilot run.

The pilot run takes `pilot_steps` small steps over the same range of noise levels. At each level it records the
mean curvature g(sigma) = sigma² tr(grad S)/(A d) and the standard deviation sd of the incremental log-weight.

- Noise levels: in log sigma they have a density proportional to sqrt(sd), plus a floor of 5 %. Most steps then
  go where modes separate.
- kappa = 1 + (tau²/s²) g(s), clamped to [u²/(2 s²), 1].
- sigma_lo, the end of weighting: for an exact energy, sd per unit of log sigma falls to zero towards small
  sigma, since the steps there no longer change the law. For a learned energy it stays high or rises, since the
  differences of the energy are noise there. If sd at the lowest levels is less than half of its maximum, all
  levels are weighted. Otherwise sigma_lo is the lowest level down to which the planned steps have a total
  variance of 3 nats², at which 64 particles keep 10 to 25 % of their ancestors. More steps lower sigma_lo. Only
  the range above sigma_lo then gets levels by the rule above. A third of the steps that were below sigma_lo,
  and at least two, cover the rest, at the levels of Karras et al. 2022 (arXiv 2206.00364).

Using a calibration again costs no evaluations.
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

from edmfast._internal.noise_levels import as_noise_levels
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.ops import rng_state
from edmfast.smc.arguments import as_counts
from edmfast.smc.calibration import Calibration
from edmfast.smc.feynman_kac.evaluate import evaluate
from edmfast.smc.options import RunOptions
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import warn_about_flags
from edmfast.targets.protocols import Target
from edmfast.targets.scores import has_energy, missing_energy

_FLOOR = 0.05
"""The floor of the density of levels, as a share of its mean."""
_MOST_VARIANCE = 3.0
"""Total variance in nats² that the weighted steps may have where weighting ends early."""
_STEPS_PER_UNWEIGHTED_STEP = 3
"""Only one of so many steps below sigma_lo is kept."""
_KARRAS_RHO = 7.0
_LOWEST_SHARE = 0.03
"""The share of the pilot's steps, at the lowest levels, whose noise shows that an energy is learned."""
_NOISY = 0.5
"""An energy counts as learned from this share of the highest sd per unit of log sigma on. At the lowest levels, a
kernel density of digits, its square and products of two classes have a share of 0.01 to 0.45, and energies
distilled by networks one of 0.6 to 1."""
_SMOOTHED_STEPS = 5
"""Number of neighbours in the running mean of the pilot's variances."""

Array = npt.NDArray[np.float64]


def calibrate(
    target: Target,
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
    """Return a `Calibration` for `smc.sample`, with as many noise levels as `sigmas` between the same ends.

    Args:
        target: an energy, as in `smc.sample`.
        shape: of one sample.
        sigmas: strictly decreasing noise levels, in the units of x; a last 0 is kept.
        particles: number of particles in each population of the pilot run.
        populations: number of populations of the pilot run; one for each condition of the target where it has
            several.
        pilot_steps: number of steps of the pilot run, at least 2. The pilot evaluates every particle
            pilot_steps + 1 times, each time with one Hutchinson probe.
        seed: of the pilot run, 64-bit.
        equalise: False keeps the given levels and fits only kappa and sigma_lo.
        sigma_lo: the level at which weighting ends, instead of the one that the rule above finds; 0 weights all
            levels.

    Raises as `smc.sample` does. Raises TypeError for a target without an energy, and ValueError for fewer than
    2 pilot steps, for a sigma_lo outside the levels, and where the score or the curvature is not finite during
    the pilot. Source: second-order Tweedie formula (kappa); Karras et al. 2022, arXiv 2206.00364 (levels below
    sigma_lo).
    """
    if not has_energy(target):
        raise missing_energy(target)
    levels = as_noise_levels(sigmas)
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
    # the schedule need not hold the given level exactly
    if sigma_lo > 0:
        sigma_lo = min(level for level in chosen if level >= sigma_lo)
    kappa = []
    for s, u in itertools.pairwise(chosen):
        # np.interp needs increasing points, and the levels decrease.
        curvature = float(np.interp(-math.log(s), -np.log(pilot.levels), pilot.curvatures))
        kappa.append(min(1.0, max(0.5 * (u / s) ** 2, 1.0 + (1.0 - (u / s) ** 2) * curvature)))
    return Calibration((*chosen, *tail), tuple(kappa), tuple(pilot.predict(chosen)), sigma_lo)


def _run_pilot(
    target: Target,
    shape: Sequence[int],
    levels: list[float],
    particles: int,
    populations: int,
    steps: int,
    seed: int,
) -> _Pilot:
    # the pilot refines the given levels evenly, so that it keeps the shape of their schedule
    position = np.linspace(0, len(levels) - 1, steps + 1)
    fine = np.exp(np.interp(position, np.arange(len(levels)), np.log(levels)))
    # exp(log(level)) may miss the ends by rounding.
    fine[0], fine[-1] = levels[0], levels[-1]
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
    return _Pilot(fine, sd, np.array(curvatures))


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


@dataclass(frozen=True)
class _Pilot:
    """The record of a pilot run of K steps."""

    levels: Array
    """Noise levels [K + 1]."""
    sd: Array
    """Standard deviation of the incremental log-weight of each step, [K] in nats."""
    curvatures: Array
    """The mean curvature g at each level, [K + 1]."""

    def end_of_weights(self, levels: list[float], equalise: bool) -> float:
        """Return sigma_lo by the rule of this module; 0 where all levels are weighted."""
        # The mean is over variances and not their roots, because the variances of steps add up.
        rate = np.sqrt(_smoothed((self.sd / -np.diff(np.log(self.levels))) ** 2))
        # noise shows at the lowest levels, where the differences of an exact energy vanish
        lowest = max(1, round(_LOWEST_SHARE * len(rate)))
        if not np.isfinite(rate).all() or rate[-lowest:].mean() < _NOISY * rate.max():
            return 0.0
        candidates = self.levels[1:] if equalise else np.array(levels[1:])
        # candidates go from the lowest level up, so the first one that fits is the lowest
        for candidate in map(float, candidates[::-1]):
            planned = self.schedule(levels, candidate, equalise)
            steps = zip(planned[1:], self.predict(planned), strict=True)
            if sum(sd**2 for end, sd in steps if end >= candidate) <= _MOST_VARIANCE:
                return candidate if candidate > levels[-1] else 0.0
        # No candidate keeps the variance low, so the weights end after the first step.
        return levels[1]

    def schedule(self, levels: list[float], sigma_lo: float, equalise: bool) -> list[float]:
        """Return as many levels between the same ends, among them sigma_lo where it is positive."""
        if not equalise:
            return levels
        below = sum(level < sigma_lo for level in levels)
        unweighted = min(below, max(2, below // _STEPS_PER_UNWEIGHTED_STEP), len(levels) - 2)
        lowest = sigma_lo if unweighted else levels[-1]
        # sigma_lo may differ from its pilot level by rounding, and one interval at least must be
        # left.
        inside = self.levels[1:] >= lowest * (1 - 1e-9)
        inside[0] = True
        # the floor keeps a density where the weights do not vary at all
        root = np.sqrt(np.maximum(self.sd[inside], 1e-8))
        share = np.concatenate([[0.0], np.cumsum(root + _FLOOR * root.mean())])
        nodes = np.log(self.levels[: len(share)])
        wanted = np.linspace(
            0.0, np.interp(-math.log(lowest), -nodes, share), len(levels) - unweighted
        )
        chosen = np.exp(np.interp(wanted, share, nodes)).tolist()
        # exp(log(level)) may miss the ends by rounding.
        chosen[0], chosen[-1] = levels[0], lowest
        if unweighted:
            ramp = np.linspace(
                lowest ** (1 / _KARRAS_RHO), levels[-1] ** (1 / _KARRAS_RHO), unweighted + 1
            )
            chosen += [*(ramp[1:-1] ** _KARRAS_RHO).tolist(), levels[-1]]
        return [float(level) for level in chosen]

    def predict(self, chosen: list[float]) -> list[float]:
        """Return the predicted sd of the incremental log-weight of each step, in nats, for the chosen levels."""
        log_fine = np.log(self.levels)
        rate = self.sd / -np.diff(log_fine)
        predicted = []
        for s, u in itertools.pairwise(chosen):
            # sd grows in proportion to a short step in log sigma
            middle = 0.5 * (math.log(s) + math.log(u))
            local = float(np.interp(-middle, -log_fine[:-1], rate))
            predicted.append(local * math.log(s / u))
        return predicted


def _smoothed(values: Array) -> Array:
    """Return the running mean over a few neighbours, fewer at the ends."""
    # The second convolution counts the neighbours, of which there are fewer at the ends.
    window = np.ones(min(_SMOOTHED_STEPS, len(values)))
    total: Array = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones_like(values), window, mode="same")
