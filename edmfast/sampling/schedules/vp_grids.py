"""Grids of a variance-preserving schedule, and the time inputs of networks trained at discrete times.

Sources: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927, section 3.4; Zhang and Chen 2023, "DEIS", arXiv
2204.13902.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from edmfast._internal.numbers import as_bool, as_float, as_int
from edmfast.sampling.schedules.sigmas import finished
from edmfast.sampling.schedules.vp_schedules import LinearVP, VPSchedule


def get_sigmas_vp_grid(
    n: int,
    spacing: Literal["logsnr", "time_uniform", "time_quadratic"] | float = "time_uniform",
    schedule: VPSchedule | None = None,
    *,
    t_start: float | None = None,
    t_end: float = 1e-3,
    denoise_to_zero: bool = True,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the noise levels of a variance-preserving schedule on one of the grids of DPM-Solver and DEIS.

    Sources: Lu et al. 2022, arXiv 2206.00927, section 3.4; Zhang and Chen 2023, arXiv 2204.13902, appendix.

    Args:
        n: the number of positive levels, at least 1.
        spacing: "logsnr" for levels evenly spaced in ln sigma; "time_uniform" and "time_quadratic" for times
            evenly spaced in t and in its square root; or the power k, positive, for times evenly spaced in
            t^(1/k).
        schedule: the schedule, by default `LinearVP()`.
        t_start: the first time, by default the last one of the schedule.
        t_end: the time of the last positive level, positive and below t_start.
        denoise_to_zero: append the level 0, at which a solver returns the denoised states.
        device: the device of the result.

    Returns:
        The levels [n + 1], or [n] without the 0, in torch's default dtype, decreasing.

    Raises:
        TypeError: an argument that is no number, or a schedule that is no `VPSchedule`.
        ValueError: n < 1, an unknown spacing, times out of order, or levels that do not fit torch's default dtype.
    """
    n = as_int("n", n, least=1)
    schedule = LinearVP() if schedule is None else schedule
    if not isinstance(schedule, VPSchedule):
        raise TypeError(f"schedule must be a VPSchedule, got {type(schedule).__name__}")
    high = as_float("t_start", schedule.last_time if t_start is None else t_start, positive=True)
    low = as_float("t_end", t_end, positive=True)
    if low >= high or high > schedule.last_time:
        raise ValueError(
            f"t_end must lie below t_start, and t_start must be at most {schedule.last_time}, "
            f"got t_start={high}, t_end={low}"
        )
    ramp = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")
    if spacing == "logsnr":
        ends = schedule.sigma(torch.tensor([high, low], dtype=torch.float64)).log()
        levels = torch.exp(ends[0] + ramp * (ends[1] - ends[0]))
    else:
        power = _power(spacing)
        times = (high ** (1 / power) + ramp * (low ** (1 / power) - high ** (1 / power))) ** power
        levels = schedule.sigma(times)
    return finished(levels, device, zero=as_bool("denoise_to_zero", denoise_to_zero))


def _power(spacing: str | float) -> float:
    named = {"time_uniform": 1.0, "time_quadratic": 2.0}
    if isinstance(spacing, str):
        if spacing not in named:
            accepted = ", ".join(map(repr, ("logsnr", *named)))
            raise ValueError(f"spacing must be {accepted} or a power, got {spacing!r}")
        return named[spacing]
    return as_float("spacing", spacing, positive=True)


def discrete_time_labels(times: Tensor | Sequence[float], n: int = 1000) -> Tensor:
    """Return the time inputs 1000 max(t - 1/n, 0) of a network that was trained at n discrete times.

    Source: Lu et al. 2022, arXiv 2206.00927, section 3.4.

    Args:
        times: times from 0 to 1, a floating-point tensor or a sequence of numbers.
        n: the number of training times, at least 1.

    Returns:
        The labels, in the shape of times and in its dtype, or in torch's default dtype for a sequence.

    Raises:
        TypeError: n that is no integer, or times that are no numbers.
        ValueError: n < 1.
    """
    n = as_int("n", n, least=1)
    if not isinstance(times, Tensor):
        times = torch.tensor([as_float("times", time) for time in times])
    elif not times.is_floating_point():
        raise TypeError(f"times must be floating-point numbers, got a tensor of {times.dtype}")
    return 1000 * (times - 1 / n).clamp(min=0)
