"""Fit kappa, the noise levels, the probes and the end of weighting to a target, by one fine pilot run.

The pilot run takes `pilot_steps` small steps over the same range of noise levels. At each level it records the
mean curvature g(sigma) = sigma² tr(grad S)/(A d) and the standard deviation sd of the incremental log-weight.

- Noise levels: in log sigma they have a density proportional to sqrt(sd), plus a floor of 5 %. Most steps then
  go where modes separate. Where the weights do not vary at all, the given levels stay.
- kappa = 1 + (tau²/s²) g(s), clamped to [u²/(2 s²), 1].
- sigma_lo, the end of weighting by energies: for an exact energy, sd per unit of log sigma falls to zero towards
  small sigma, since the steps there no longer change the law. For a learned energy it stays high or rises, since
  the differences of the energy are noise there. If sd at the lowest levels is less than half of its maximum, all
  levels are weighted. Otherwise sigma_lo is the lowest level down to which the planned steps have a total
  variance of 3 nats², at which 64 particles keep 10 to 25 % of their ancestors. More steps lower sigma_lo. Only
  the range above sigma_lo then gets levels by the rule above. A third of the steps that were below sigma_lo,
  and at least two, cover the rest, at the levels of Karras et al. 2022 (arXiv 2206.00364).
- Probes, for weights from matched reversals: sd² is the sum of the variance of exact weights and of the noise of
  one trace probe, which the pilot tells apart (see `edmfast.smc.pilot.reversal`). Steps whose weights hardly
  differ between particles get no probe, and the probes that are left go where they lower the noise most (see
  `edmfast.smc.pilot.probe_table`). Nothing ends these weights, since no learned energy enters them.

Using a calibration again costs no evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from edmfast._internal.noise_levels import as_noise_levels
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.calling.foreign import name_of
from edmfast.smc.arguments import as_counts
from edmfast.smc.calibration import Calibration
from edmfast.smc.feynman_kac.choose import kind_of_weights
from edmfast.smc.options import as_weights
from edmfast.smc.pilot import energy, reversal
from edmfast.smc.pilot.probe_table import choose_probes
from edmfast.smc.pilot.record import Array, Pilot
from edmfast.targets.protocols import Model
from edmfast.targets.scores import has_energy, missing_energy


def calibrate(
    target: Model,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    particles: int = 1000,
    populations: int = 1,
    weights: str = "auto",
    pilot_steps: int = 128,
    seed: int = 0,
    equalise: bool = True,
    sigma_lo: float | None = None,
    probes: float = 1.0,
) -> Calibration:
    """Return a `Calibration` for `smc.sample`, with as many noise levels as `sigmas` between the same ends.

    Args:
        target: an energy, or a power, product or guidance of denoisers, as in `smc.sample`.
        shape: of one sample.
        sigmas: strictly decreasing noise levels, in the units of x; a last 0 is kept.
        particles: number of particles in each population of the pilot run.
        populations: number of populations of the pilot run; one for each condition of the target where it has
            several.
        weights: "energy", "reversal", or "auto", which takes what `smc.sample` takes for the target. For hybrid
            weights, fit "energy" with equalise=False, since few levels are left below sigma_lo otherwise.
        pilot_steps: number of steps of the pilot run, at least 2. The pilot evaluates every particle
            pilot_steps + 1 times, each time with one Hutchinson probe. For reversals of models without exact
            traces it evaluates twice as often, with three probes in all.
        seed: of the pilot run, 64-bit.
        equalise: False keeps the given levels and fits only kappa, sigma_lo and the probes.
        sigma_lo: the level at which weighting by energies ends, instead of the one that the rule above finds; 0
            weights all levels. Reversals take None or 0.
        probes: the largest mean number of trace probes for each step of a run by reversals. A probe costs about
            one forward pass of each denoiser: 1 makes a run twice as expensive as a plain sampler, 1.2 makes it
            2.2 times as expensive.

    Raises as `smc.sample` does. Raises TypeError for energy weights of a target without an energy, and for one
    that is weighed by scores or not at all, and ValueError for fewer than 2 pilot steps, a sigma_lo outside the
    levels, fewer probes than the steps need, and where the score or the curvature is not finite during the pilot.
    Source: second-order Tweedie formula (kappa); Karras et al. 2022, arXiv 2206.00364 (levels below sigma_lo).
    """
    kind = _kind(target, weights)
    levels = as_noise_levels(sigmas)
    tail = (0.0,) if levels[-1] == 0 else ()
    levels = levels[:-1] if tail else levels
    particles, populations = as_counts(particles, populations)
    pilot_steps, seed = as_int("pilot_steps", pilot_steps, least=2), as_seed(seed)
    probes = as_float("probes", probes, least=0)
    sigma_lo = _check_end(sigma_lo, levels, kind)
    run_pilot: Any = energy.run_pilot if kind == "energy" else reversal.run_pilot
    fine = _refined(levels, pilot_steps)
    pilot: Pilot = run_pilot(target, shape, fine, particles, populations, seed)
    if not pilot.sd.any():
        equalise = False  # nothing tells one level from another
    if sigma_lo is None:
        sigma_lo = pilot.end_of_weights(levels, equalise)
    chosen = pilot.schedule(levels, sigma_lo, equalise)
    # the schedule need not hold the given level exactly
    if sigma_lo > 0:
        sigma_lo = min(level for level in chosen if level >= sigma_lo)
    sd, counts, probe_sd = _spread(pilot, chosen, probes)
    kappa = tuple(pilot.kappa(chosen))
    return Calibration((*chosen, *tail), kappa, sd, sigma_lo, counts, probe_sd)


def _kind(target: Model, weights: str) -> str:
    """Return "energy" or "reversal". Raises as `calibrate` does."""
    if weights not in ("auto", "energy", "reversal"):
        raise ValueError(
            f"calibrate fits the weights 'auto', 'energy' or 'reversal', got {weights!r}"
        )
    kind = kind_of_weights(target, as_weights(weights), None)
    if kind == "energy" and not has_energy(target):
        raise missing_energy(target)
    if kind == "score":
        raise TypeError(
            f"{name_of(target)} has no energy, and no power or product for reversals to weigh: there is nothing "
            "to calibrate, unless weights='reversal' is given"
        )
    # the pilot of energies finds the level below which their differences are noise, where hybrid weights switch
    return "energy" if kind == "hybrid" else kind


def _check_end(sigma_lo: float | None, levels: list[float], kind: str) -> float | None:
    """Return sigma_lo as a float or None, and 0 for reversals. Raises ValueError for one that does not fit."""
    end = None if sigma_lo is None else as_float("sigma_lo", sigma_lo)
    if kind == "reversal":
        if end:
            raise ValueError(
                f"reversals weigh all levels: sigma_lo must be None or 0 for them, got {sigma_lo}"
            )
        return 0.0
    if end is not None and end != 0 and not levels[-1] <= end < levels[0]:
        raise ValueError(
            f"sigma_lo must be 0 or in [{levels[-1]:g}, {levels[0]:g}), got {sigma_lo}"
        )
    return end


def _refined(levels: list[float], steps: int) -> Array:
    """Return the levels of a pilot run, which keep the shape of the given schedule."""
    position = np.linspace(0, len(levels) - 1, steps + 1)
    fine: Array = np.exp(np.interp(position, np.arange(len(levels)), np.log(levels)))
    # exp(log(level)) may miss the ends by rounding.
    fine[0], fine[-1] = levels[0], levels[-1]
    return fine


def _spread(
    pilot: Pilot, chosen: list[float], probes: float
) -> tuple[tuple[float, ...], tuple[int, ...] | None, tuple[float, ...] | None]:
    """Return the predicted sd of every step, the number of its probes, and the sd of one probe."""
    sd = pilot.predict(chosen)
    if pilot.probe_sd is None or pilot.lost_sd is None:
        return tuple(sd), None, None
    noise, lost = pilot.predict(chosen, pilot.probe_sd), pilot.predict(chosen, pilot.lost_sd)
    counts = choose_probes(lost, noise, probes)
    left = []
    for total, one, without, count in zip(sd, noise, lost, counts, strict=True):
        signal = max(total**2 - one**2, 0.0)
        variance = signal + one**2 / count if count else signal - without**2
        left.append(max(variance, 0.0) ** 0.5)
    return tuple(left), counts, tuple(noise)
