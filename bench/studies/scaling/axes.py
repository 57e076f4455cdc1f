"""Define an axis of `bench.studies.scaling`: a job at growing sizes, its clock, and the power law of its times.

The exponent is the slope of log time against log size, by least squares over the upper half of the sizes. Its
standard error comes from the distance of the times to that line, so a bad fit shows as a large error. All
sizes of an axis are timed in turn, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from bench.harness.table import duration
from bench.harness.timing import Effort, Timing, time_side_by_side

_FEWEST = 3
"""Fewest points of a line: two have no error."""


class Line(NamedTuple):
    """The exponent, its standard error (None for two points, through which a line goes exactly), and the
    number of fitted points."""

    exponent: float
    error: float | None
    points: int


def fit(sizes: Sequence[float], values: Sequence[float]) -> Line:
    """Fit a power law to the upper half of the increasing sizes, to at least three points where there are three.

    Raises ValueError for fewer than two sizes, or for values that have no logarithm.
    """
    if len(sizes) != len(values) or len(sizes) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f"need two positive sizes and values or more, got {sizes} and {values}")
    count = min(len(sizes), max(_FEWEST, math.ceil(len(sizes) / 2)))
    x, y = ([math.log(v) for v in some[-count:]] for some in (sizes, values))
    middle, height = sum(x) / count, sum(y) / count
    spread = sum((a - middle) ** 2 for a in x)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread
    if count == 2:
        return Line(slope, None, count)
    rest = sum((b - height - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    return Line(slope, math.sqrt(rest / (count - 2) / spread), count)


Times = dict[int, Timing]
Extras = dict[str, list[float]]


@dataclass(frozen=True)
class Axis:
    """One job at growing sizes.

    name: "family" or "family-which". unit: the unit of a size. job: the job in words. sizes and quick: the
    sizes of a full and of a quick run. cuda_sizes and cuda_quick: those of a GPU, where small sizes would
    time launches only. make(size, device) returns the call that is timed. check(device) raises AssertionError
    where the job is wrong at a small size; it runs the same job by the same code. clock replaces
    `bench.harness.timing` where a call involves several processes. extras(sizes, device) returns further
    numbers by size, each under a name with its unit.
    """

    name: str
    unit: str
    job: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    check: Callable[[torch.device], None]
    make: Callable[[int, torch.device], Callable[[], Any]] | None = None
    clock: Callable[[Sequence[int], torch.device, Effort], Times] | None = None
    extras: Callable[[Sequence[int], torch.device], Extras] | None = None
    cuda_sizes: tuple[int, ...] = ()
    cuda_quick: tuple[int, ...] = ()
    rounds: int = 7
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def family(self) -> str:
        return self.name.split("-")[0]

    def sizes_on(self, device: torch.device, *, quick: bool) -> tuple[int, ...]:
        for_gpu, usual = (self.cuda_quick, self.quick) if quick else (self.cuda_sizes, self.sizes)
        return for_gpu if for_gpu and device.type == "cuda" else usual


@dataclass(frozen=True)
class Measured:
    """The times of an axis, or the reason why there are none.

    lost: by size (or "extras"), the reason why it has none.
    """

    axis: Axis
    times: Times = field(default_factory=dict)
    extras: Extras = field(default_factory=dict)
    failure: str = ""
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> Line:
        return fit([*self.times], [timing.median for timing in self.times.values()])

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with times in seconds per call.

        overhead_seconds is the time of the smallest size, seconds_per_unit that of the largest over its size.
        """
        head = {"name": self.axis.name, "unit": self.axis.unit, "job": self.axis.job}
        if self.failure:
            nothing: dict[str, Any] = {"sizes": [], "seconds": []}
            return {**head, "failure": self.failure, "lost": self.lost, **nothing}
        line, sizes, taken = self.line, [*self.times], [*self.times.values()]
        return {
            **head,
            "sizes": sizes,
            "seconds": [timing.median for timing in taken],
            "p20": [timing.p20 for timing in taken],
            "p80": [timing.p80 for timing in taken],
            "rounds": taken[0].rounds,
            "exponent": line.exponent,
            "exponent_error": line.error,
            "fitted_sizes": sizes[-line.points :],
            "overhead_seconds": taken[0].median,
            "seconds_per_unit": taken[-1].median / sizes[-1],
            "extras": self.extras,
            "lost": self.lost,
        }


class _LostError(Exception):
    """Error raised when the call of one size failed."""

    def __init__(self, size: int, why: str) -> None:
        self.size, self.why = size, why


def measure(axis: Axis, device: torch.device, effort: Effort, *, quick: bool = False) -> Measured:
    """Check the job, then time it; a wrong job has no times.

    A size that cannot be timed (for lack of memory, say) is left out, as long as two remain to fit a line.
    """
    try:
        axis.check(device)
    except Exception as error:
        return Measured(axis, failure=_reason(error))
    sizes = axis.sizes_on(device, quick=quick)
    effort = replace(effort, rounds=min(effort.rounds, axis.rounds))
    lost: dict[str, str] = {}
    if axis.clock is not None:
        try:
            times = axis.clock(sizes, device, effort)
        except Exception as error:
            return Measured(axis, failure=_reason(error))
    else:
        times = _timed(axis, sizes, device, effort, lost)
    if len(times) < 2:
        reasons = "; ".join(f"{size}: {why}" for size, why in lost.items())
        return Measured(axis, failure=f"fewer than two sizes could be timed: {reasons}", lost=lost)
    extras: Extras = {}
    try:
        extras = axis.extras([*times], device) if axis.extras else {}
    except Exception as error:
        lost["extras"] = _reason(error)
    return Measured(axis, times, extras, lost=lost)


def _timed(
    axis: Axis, sizes: Sequence[int], device: torch.device, effort: Effort, lost: dict[str, str]
) -> Times:
    """Time the possible sizes side by side; the reasons for the others go into `lost`."""
    assert axis.make is not None
    jobs: dict[str, Callable[[], Any]] = {}
    for size in sizes:
        try:
            jobs[str(size)] = _naming(size, axis.make(size, device))
        except Exception as error:
            lost[str(size)] = _reason(error)
    while len(jobs) > 1:
        try:
            timings = time_side_by_side(jobs, [()], device, effort)
            return {int(name): timing for name, timing in timings.items()}
        except _LostError as error:
            lost[str(error.size)] = error.why
            del jobs[str(error.size)]
        # once the exception is gone, the memory of the call is free
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {}


def _naming(size: int, job: Callable[[], Any]) -> Callable[[], Any]:
    """Return the job with errors that name its size."""

    def call() -> Any:
        try:
            return job()
        except Exception as error:
            raise _LostError(size, _reason(error)) from error

    return call


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def table(measured: Measured) -> str:
    """Return an axis as text."""
    axis = measured.axis
    title = f"{axis.name}: {axis.job}"
    if measured.failure:
        return f"{title}\n    FAILED, not timed: {measured.failure}"
    lost = [f"LOST {size}: {why}" for size, why in measured.lost.items()]
    names = [*measured.extras]
    rows = [(axis.unit, "time (20th - 80th percentile)", "per unit", *names)]
    for index, (size, timing) in enumerate(measured.times.items()):
        spread = (
            f"{duration(timing.median)} ({duration(timing.p20)} - {duration(timing.p80)})",
            duration(timing.median / size),
        )
        more = (f"{measured.extras[name][index]:.4g}" for name in names)
        rows.append((str(size), *spread, *more))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n    ".join([title, *lines, *lost, _describe_fit(measured)])


def _describe_fit(measured: Measured) -> str:
    """Return the fitted exponent and the cost of a call in words."""
    line, sizes = measured.line, [*measured.times]
    error = "" if line.error is None else f" ± {line.error:.2g}"
    overhead = duration(measured.times[sizes[0]].median)
    return (
        f"time ~ size^({line.exponent:.3f}{error}) over the last {line.points} sizes; "
        f"{overhead} at {sizes[0]}, what a call costs at least"
    )


def chosen(axes: Sequence[Axis], names: str, device: str) -> list[Axis]:
    """Return the axes of a device type whose name or family is in the comma-separated list; all for an empty list.

    Raises ValueError for a name that no axis has.
    """
    here = [axis for axis in axes if device in axis.devices]
    wanted = [name for name in names.split(",") if name]
    known: Mapping[str, None] = dict.fromkeys(
        name for axis in here for name in (axis.family, axis.name)
    )
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"no axis {', '.join(unknown)} for {device}; known: {', '.join(known)}")
    return [axis for axis in here if not wanted or {axis.name, axis.family} & {*wanted}]
