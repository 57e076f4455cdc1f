"""The timesteps of a run between those of training: spaced by "linspace", "leading" or "trailing".

Table 2 of Lin et al. 2023 ("Common diffusion noise schedules and sample steps are flawed") names the spacings.
diffusers has two forms of them: one ends at the last timestep of a run, and one counts the end of the data too.
"""

from __future__ import annotations

import numpy as np

from edmfast.diffusers.levels.curves import Array

SPACINGS = ("linspace", "leading", "trailing")


def unknown(spacing: str) -> ValueError:
    """Return the error for a spacing that does not exist."""
    return ValueError(f"timestep_spacing={spacing!r} is not known: it is {', '.join(SPACINGS)}")


def to_last_timestep(spacing: str, count: int, train: int, offset: int) -> Array:
    """Return count falling timesteps, float32, the last of which is 0 for "linspace" and "leading"."""
    if spacing == "linspace":
        return np.linspace(0, train - 1, count, dtype=np.float32)[::-1].copy()
    if spacing == "leading":
        steps = np.arange(count) * (train // count)
        return steps[::-1].astype(np.float32) + np.float32(offset)
    if spacing == "trailing":
        return _trailing(train, train / count).astype(np.float32) - np.float32(1)
    raise unknown(spacing)


def to_data(spacing: str, count: int, train: int, offset: int, top: int | None = None) -> Array:
    """Return count falling timesteps, int64, from count + 1 places the last of which is the data.

    top: the number of timesteps that are used, without those of too little signal.
    """
    top = train if top is None else top
    if spacing == "linspace":
        return np.linspace(0, top - 1, count + 1).round()[:0:-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(count + 1)[:0:-1] * (top // (count + 1)) + offset
    if spacing == "trailing":
        return _trailing(top, train / count).astype(np.int64) - 1
    raise unknown(spacing)


def whole(spacing: str, count: int, train: int, offset: int) -> Array:
    """Return count falling timesteps, int64, as DDIM takes them."""
    if spacing == "linspace":
        return np.linspace(0, train - 1, count).round()[::-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(count)[::-1] * (train // count) + offset
    if spacing == "trailing":
        return _trailing(train, train / count).astype(np.int64) - 1
    raise unknown(spacing)


def _trailing(top: int, ratio: float) -> Array:
    return np.arange(top, 0, -ratio).round()
