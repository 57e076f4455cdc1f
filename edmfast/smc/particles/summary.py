"""Describe particles in words: one line for a prompt, a few lines for a reader."""

from __future__ import annotations

from torch import Tensor

from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.estimates import log_mean_estimate, show_number
from edmfast.smc.verdict.judge import judge


def one_line(particles: ParticleData) -> str:
    """Return the number of particles, the law, log Z and the level of the verdict in one line."""
    # The first words of a law name it, and what follows are explanations and reservations.
    law = particles.law.split(":")[0].split(";")[0] or "unknown"
    reserved = " with reservations" if "; but " in particles.law else ""
    parts = [_size(particles), f"law: {law}{reserved}"]
    log_z = _log_z(particles)
    parts += [f"log Z {log_z.split(' nats')[0]}"] if log_z else []
    return f"Particles({', '.join(parts)}, verdict: {judge(particles).level})"


def text(particles: ParticleData) -> str:
    """Return what a run did and how far its weights can be trusted, one line for each fact."""
    lines = [f"{_size(particles)}, {_levels(particles)}", f"law: {particles.law or 'unknown'}"]
    log_z = _log_z(particles)
    if log_z:
        note = f" ({particles.log_z_note})" if particles.log_z_note else ""
        lines.append(f"log Z: {log_z}{note}")
    size = particles.x.shape[1]
    ess = particles.ess.cpu().double()
    lowest = ess.min(0).values
    # a median with its range says more than a mean, because one population may be far off
    lines.append(
        f"effective sample size of {size}: {_median(ess[0])} at the start, {_median(lowest)} at its lowest, "
        f"{_median(ess[-1])} at the end"
    )
    lines.append(
        f"resampled at {_median(particles.resampled.sum(0))} of {len(ess)} levels; starting particles with "
        f"descendants: {_median(particles.unique_ancestors)} of {size}, "
        f"{int(particles.unique_ancestors.sum())} in all"
    )
    lines.append(f"evaluations per particle: {_cost(particles)}")
    lines.append(f"verdict: {judge(particles)}")
    return "\n".join(lines)


def _cost(particles: ParticleData) -> str:
    """Return what one particle cost, in forward and backward passes where they were counted."""
    # Files of earlier versions do not hold this count.
    if particles.evaluations is None:
        return f"{particles.nfe} of the target"
    return f"{particles.evaluations} ({particles.nfe} of the target)"


def _size(particles: ParticleData) -> str:
    populations, size, *shape = particles.x.shape
    count = "1 population" if populations == 1 else f"{populations} populations"
    return f"{count} of {size} particles of shape {tuple(shape)}"


def _levels(particles: ParticleData) -> str:
    sigmas = particles.sigmas[: len(particles.ess)].tolist()
    last = ", then 0" if len(particles.sigmas) > len(sigmas) else ""
    return f"{len(sigmas)} noise levels from {sigmas[0]:.4g} to {sigmas[-1]:.4g}{last}"


def _log_z(particles: ParticleData) -> str:
    """Return log Z with its error, or its range where each population has its own target; "" for no log Z."""
    if particles.says_no_log_z:
        return ""
    values = particles.log_z.cpu()
    if len(values) == 1:
        value = show_number(float(values[0]), 5)
        return f"{value} nats, without an error because there is one population"
    # Z of different targets must not be averaged, so only their range is told.
    if particles.one_target is not False:
        return f"{log_mean_estimate(particles.surviving_log_z())} nats"
    low, high = (show_number(float(end), 4) for end in (values.min(), values.max()))
    return f"from {low} to {high} nats, not comparable because each population has its own target"


def _median(values: Tensor) -> str:
    """Return the median over populations, with the range where they differ."""
    values = values.cpu().double()
    median = f"{float(values.median()):.4g}"
    low, high = float(values.min()), float(values.max())
    return median if low == high else f"{median} ({low:.4g} to {high:.4g})"
