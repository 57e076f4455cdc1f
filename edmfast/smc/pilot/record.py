"""The record of a pilot run, from which `edmfast.smc.calibrate` chooses levels, kappa and the end of weighting."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class Pilot:
    """The record of a pilot run of K steps."""

    levels: Array
    """Noise levels [K + 1]."""
    sd: Array
    """Standard deviation of the incremental log-weight of each step, [K] in nats. Where probes estimate traces,
    the noise of one probe is part of it."""
    curvatures: Array
    """The mean curvature g at each level, [K + 1]."""
    probe_sd: Array | None = None
    """Standard deviation of the noise that one probe adds to the log-weight of each step, [K] in nats; None where
    no probe enters the weights."""
    lost_sd: Array | None = None
    """Standard deviation of what the log-weight of a step loses where all particles take the mean trace, [K]."""

    def end_of_weights(self, levels: list[float], equalise: bool) -> float:
        """Return sigma_lo by the rule of `edmfast.smc.calibrate`; 0 where all levels are weighted."""
        # The mean is over variances and not their roots, because the variances of steps add up.
        rate = np.sqrt(smoothed((self.sd / -np.diff(np.log(self.levels))) ** 2))
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

    def kappa(self, chosen: list[float]) -> list[float]:
        """Return kappa for each step between the chosen levels."""
        kappa = []
        for s, u in itertools.pairwise(chosen):
            # np.interp needs increasing points, and the levels decrease.
            curvature = float(np.interp(-math.log(s), -np.log(self.levels), self.curvatures))
            kappa.append(min(1.0, max(0.5 * (u / s) ** 2, 1.0 + (1.0 - (u / s) ** 2) * curvature)))
        return kappa

    def predict(self, chosen: list[float], sd: Array | None = None) -> list[float]:
        """Return the predicted sd of each step in nats for the chosen levels.

        sd: one of the standard deviations of this record, by default that of the incremental log-weight.
        """
        log_fine = np.log(self.levels)
        rate = (self.sd if sd is None else sd) / -np.diff(log_fine)
        predicted = []
        for s, u in itertools.pairwise(chosen):
            # sd grows in proportion to a short step in log sigma
            middle = 0.5 * (math.log(s) + math.log(u))
            local = float(np.interp(-middle, -log_fine[:-1], rate))
            predicted.append(local * math.log(s / u))
        return predicted


def smoothed(values: Array) -> Array:
    """Return the running mean over a few neighbours, fewer at the ends."""
    # The second convolution counts the neighbours, of which there are fewer at the ends.
    window = np.ones(min(_SMOOTHED_STEPS, len(values)))
    total: Array = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones_like(values), window, mode="same")
