"""The noise levels of a run, and where on them it weighs and resamples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from edmfast._internal.noise_levels import as_noise_levels
from edmfast._internal.numbers import as_float, as_range
from edmfast.smc.calibration import Calibration


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run.

    all_levels: in decreasing order, with a last 0 where a denoising step ends the run. levels: the positive ones.
    sigma_range: (low, high); weights stop below low, and resampling happens inside. ess_threshold: resample below
    this fraction of N. kappa, probes: the tables of a calibration, one number per step, or None. switch: the level
    below which the calibration found that differences of energies are noise, or None.
    """

    all_levels: tuple[float, ...]
    sigma_range: tuple[float, float] = (0.0, math.inf)
    ess_threshold: float = 0.5
    kappa: tuple[float, ...] | None = None
    switch: float | None = None
    probes: tuple[int, ...] | None = None

    @property
    def levels(self) -> tuple[float, ...]:
        """The positive noise levels, in decreasing order."""
        return self.all_levels[:-1] if self.all_levels[-1] == 0 else self.all_levels

    @property
    def weighed_levels(self) -> list[float]:
        """The positive levels at which the run has weights."""
        return [level for level in self.levels if level >= self.sigma_range[0]]

    def threshold(self, index: int) -> float:
        """Return the fraction of N below which a level resamples: 0 outside the range and at the last level."""
        low, high = self.sigma_range
        # Resampling at the last level would only add variance to the result.
        inside = low <= self.levels[index] <= high and index + 1 < len(self.levels)
        return self.ess_threshold if inside else 0.0

    def weighs(self, index: int) -> bool:
        """Return whether the step to a level accumulates weights."""
        return self.levels[index] >= self.sigma_range[0]


def as_schedule(
    sigmas: Tensor | Sequence[float] | Calibration,
    sigma_range: tuple[float, float] | None,
    ess_threshold: float,
    *,
    truncates: bool = True,
) -> Schedule:
    """Return the schedule of a run from the arguments of `smc.sample`, which this function checks.

    truncates: weights end at the sigma_lo of a calibration.
    """
    ess_threshold = as_float("ess_threshold", ess_threshold, least=0, most=1)
    limits = None if sigma_range is None else as_range("sigma_range", sigma_range)
    kappa: tuple[float, ...] | None = None
    switch: float | None = None
    probes: tuple[int, ...] | None = None
    if isinstance(sigmas, Calibration):
        probes = sigmas.probes
        kappa = tuple(sigmas.kappa)
        switch = sigmas.sigma_lo or None
        # A range of the caller goes before that of the calibration.
        if truncates:
            limits = limits or (sigmas.sigma_lo, math.inf)
        sigmas = sigmas.sigmas
    levels = tuple(as_noise_levels(sigmas))
    return Schedule(levels, limits or (0.0, math.inf), ess_threshold, kappa, switch, probes)
