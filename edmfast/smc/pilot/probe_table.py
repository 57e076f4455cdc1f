"""Spread a number of trace probes over the steps of a run, to where they lower the variance of the weights most.

K probes at a step leave the noise v/K, where v is that of one probe. A step without a probe takes the mean trace
for all particles: it has no noise, but its log-weights lose what differs between particles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LOST = 0.01
"""The standard deviation in nats that all steps without a probe may lose together. The losses may point the same
way at all of them, so standard deviations are added and not variances. It is a bias, which more particles do
not lower, so it must stay below the error of the steps: 0.1 shifted the log-odds of two modes by 0.13."""


def choose_probes(
    lost_sd: Sequence[float], probe_sd: Sequence[float], per_step: float
) -> tuple[int, ...]:
    """Return the number of probes of each of T steps, at most per_step · T in all.

    lost_sd, probe_sd: of every step in nats, see `Pilot`. Steps that lose least get no probe, as long as they lose
    at most 0.01 nats together. All others get at least one, and each further probe goes to the step whose noise
    falls most. No probe is spent where no noise is left to remove.

    Raises ValueError where the steps that need a probe are more than that.
    """
    steps = len(lost_sd)
    counts, lost = [1] * steps, 0.0
    for step in sorted(range(steps), key=lambda step: lost_sd[step]):
        lost += lost_sd[step]
        if lost > _LOST:
            break
        counts[step] = 0
    needed, allowed = sum(counts), math.floor(per_step * steps + 1e-9)
    if needed > allowed:
        raise ValueError(
            f"{needed} of {steps} steps need a probe, and probes={per_step:g} for each step allows {allowed} in "
            f"all: pass probes={math.ceil(100 * needed / steps) / 100:g} or more"
        )

    def removed(step: int) -> float:
        """Return the variance that one more probe of a step removes."""
        return probe_sd[step] ** 2 / (counts[step] * (counts[step] + 1))

    probed = [step for step in range(steps) if counts[step]]
    for _ in range(allowed - needed):
        best = max(probed, key=removed, default=None)
        if best is None or removed(best) == 0:
            break
        counts[best] += 1
    return tuple(counts)
