"""The diagnostics of models at every noise level, gathered in one table.

The states are data with noise, so that they show the models where the data is.

| column           | what it is                                                                            |
|------------------|---------------------------------------------------------------------------------------|
| NAsym            | the antisymmetric share of the Jacobian of the score                                  |
| NAsym by         | the method of the products with the Jacobian, see `edmfast.models.asymmetry`          |
| NAsym error      | what the error of differences alone would show, where that is the method              |
| circulation      | the circulation of the score around 16 rectangles, relative to its strength           |
| Fokker-Planck sd | sigma times the sd of the residual of the heat equation, in nats                      |
| self-check sd    | the sd of energy differences against the score, over the steps from the level above   |
| error on p       | the sd of the energy against the exact one on draws of p, in nats                     |
| error on p²      | the same on draws of p²                                                               |
| error between    | the part of it between the components of p, in nats                                   |

All are 0 for an exact energy, except for the error of the step size in the self-check.
The rows down to circulation need a denoiser, the next two an energy, and the last three an exact energy to compare
with.
Sources: those of `edmfast.diagnostics`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.tables import Cell
from edmfast.diagnostics import (
    energy_error,
    fokker_planck,
    noising_trajectory,
    score_asymmetry,
    self_check,
)
from edmfast.diagnostics.report import relative_circulation
from edmfast.evaluation.likelihood import has_energy
from edmfast.evaluation.tables import Table
from edmfast.models.asymmetry import joined
from edmfast.models.calling.foreign import call_denoiser, energy_of

NASYM_BY, NASYM_ERROR = "NAsym by", "NAsym error"
"""The names of the columns that say how NAsym was measured."""
_PLANES, _NODES = 16, 16
"""The states around which the circulation is measured, and the most points on a side of their rectangles."""
_EXACT_DIMENSIONS = 64
"""The largest number of dimensions for which traces are exact."""
SUBSTEPS = 8
"""The steps of the self-check between two levels of the table."""
NOTES = (
    "NAsym, circulation: 0 where the score is a gradient, as that of an energy, up to rounding; at most 1",
    "NAsym by: reverse and forward mode are exact, and differences leave about the NAsym error even to a gradient",
    "Fokker-Planck: sigma times the sd of the residual over states, in nats",
    f"self-check: sd over paths of energy differences minus those of the score, over {SUBSTEPS} steps from the",
    "    level above, in nats; long steps leave some of it even to an exact energy",
    "error on p, on p², between: sd of the energy against the exact one, and its part between components, in nats",
)


@dataclass(frozen=True)
class LevelOptions:
    """The settings of `level_table`.

    sigmas: the noise levels, decreasing. truth: an exact energy, or None. draws: the states of its energy errors.
    probes: the random probes for Jacobians. batch_size: the states that a model receives at once.
    """

    sigmas: tuple[float, ...]
    truth: Any = None
    draws: int = 2048
    probes: int = 4
    batch_size: int = 1024
    seed: int = 0


def level_table(
    models: Mapping[str, Any],
    data: Tensor,
    options: LevelOptions,
    *,
    condition: Mapping[str, Tensor] | None = None,
    finished: Callable[[str], Any] = lambda part: None,
) -> Table:
    """Measure models at every noise level and return one row for each model and level.

    models: denoisers or energies by name. data: clean samples [n, *shape], n >= 2, in the dtype of the models.
    condition: keyword conditions [n]. finished: called after each part of the work.
    """
    path = noising_trajectory(data, _refined(options.sigmas), seed=options.seed)
    rows: list[dict[str, Cell]] = []
    for name, model in models.items():
        work = _Work(model, path, dict(condition or {}), options)
        columns: dict[str, Sequence[Cell]] = {**work.asymmetry(), "circulation": work.circulation()}
        finished(f"{name}: conservativity")
        if has_energy(model):
            columns |= {"Fokker-Planck sd": work.residual(), "self-check sd": work.self_check()}
            finished(f"{name}: consistency")
            if options.truth is not None:
                columns |= work.errors()
                finished(f"{name}: energy error")
        for i, sigma in enumerate(options.sigmas):
            own = {column: values[i] for column, values in columns.items()}
            rows.append({"model": name, "sigma": sigma, **own})
    return Table("Consistency by noise level", tuple(rows), NOTES)


def parts_of(models: Mapping[str, Any], truth: Any) -> int:
    """Return how often `level_table` calls `finished`."""
    energies = sum(has_energy(model) for model in models.values())
    return len(models) + energies * (1 if truth is None else 2)


def _refined(levels: Sequence[float]) -> list[float]:
    """Return the levels with SUBSTEPS - 1 further ones between neighbours, evenly spaced in ln sigma."""
    fine = [levels[0]]
    for high, low in itertools.pairwise(levels):
        fine += [high * (low / high) ** (k / SUBSTEPS) for k in range(1, SUBSTEPS)] + [low]
    return fine


@dataclass(frozen=True)
class _Work:
    """The measurements of one model along paths of growing noise, whose every SUBSTEPS-th state is at a level."""

    model: Any
    path: list[Tensor]
    condition: dict[str, Tensor]
    options: LevelOptions

    def batches(self) -> Iterator[tuple[slice, dict[str, Tensor], int]]:
        """Yield the rows of every batch, their conditions and their seed."""
        size, count = self.options.batch_size, len(self.path[0])
        for first in range(0, count, size):
            rows = slice(first, min(first + size, count))
            given = {name: value[rows] for name, value in self.condition.items()}
            yield rows, given, (self.options.seed + first) % 2**64

    def levels(self) -> Iterator[tuple[Tensor, float]]:
        """Yield the states [n, *shape] of every level, and the level."""
        yield from zip(self.path[::SUBSTEPS], self.options.sigmas, strict=True)

    def asymmetry(self) -> dict[str, list[Cell]]:
        """Return NAsym of the score at every level, how it was measured, and what the measurement resolves."""
        found = []
        for x, sigma in self.levels():
            parts = []
            for rows, given, seed in self.batches():
                settings: dict[str, Any] = {"probes": self.options.probes, "seed": seed, **given}
                parts.append(score_asymmetry(self.model, x[rows], sigma, **settings))
            found.append(joined(parts))
        columns: dict[str, list[Cell]] = {"NAsym": [part.overall for part in found]}
        columns[NASYM_BY] = [part.method for part in found]
        if any(part.method == "difference" for part in found):
            columns[NASYM_ERROR] = [part.resolution for part in found]
        return columns

    def circulation(self) -> list[float]:
        """Return the relative circulation of the score around a few states of every level."""
        model: Any = _InBatches(self.model, self.options.batch_size)
        given = {name: value[:_PLANES] for name, value in self.condition.items()}
        return [
            relative_circulation(
                model, x[:_PLANES], sigma, self.options.seed, given, max_nodes=_NODES
            )
            for x, sigma in self.levels()
        ]

    def residual(self) -> list[float]:
        """Return sigma times the sd of the residual of the heat equation, in nats."""
        exact = self.path[0].shape[1:].numel() <= _EXACT_DIMENSIONS
        probes = None if exact else self.options.probes
        found = []
        for x, sigma in self.levels():
            parts = []
            for rows, given, seed in self.batches():
                settings: dict[str, Any] = {"probes": probes, "seed": seed, **given}
                part = fokker_planck(self.model, [x[rows]], [sigma], **settings)
                parts.append(part.residuals[0])
            found.append(sigma * float(torch.cat(parts).std()))
        return found

    def self_check(self) -> list[float]:
        """Return the sd over paths of the residuals between two levels, with NaN for the highest level."""
        fine = _refined(self.options.sigmas)
        parts = [
            self_check(self.model, [x[rows] for x in self.path], fine, **given).residuals
            for rows, given, _ in self.batches()
        ]
        # the residuals of the steps between two levels of the table add up along a path
        steps = torch.cat(parts, 1)
        sums = steps.reshape(len(self.options.sigmas) - 1, SUBSTEPS, -1).sum(1)
        return [math.nan, *sums.std(1).tolist()]

    def errors(self) -> dict[str, list[float]]:
        """Return the errors of the energy against the truth, in nats."""
        truth, states = self.options.truth, self.path[::SUBSTEPS]
        shaped: Any = _Shaped(self.model, tuple(states[0].shape[1:]), self.options.batch_size)
        settings: dict[str, Any] = {"count": self.options.draws, "seed": self.options.seed}
        if not hasattr(truth, "sample"):
            settings["draws"] = states  # data with noise are draws of p too, if fewer
        squared = hasattr(truth, "power")
        levels = self.options.sigmas
        try:
            error = energy_error(shaped, truth, levels, **settings)
        except ValueError as refused:
            # p² of a mixture of many components takes too much memory
            if "squared_draws" not in str(refused):
                raise
            squared = False
            error = energy_error(shaped, truth, levels, squared_draws=states, **settings)
        columns = {"error on p": error.on_p.tolist()}
        if squared:
            columns["error on p²"] = error.on_square.tolist()
        return columns | {"error between": error.between.tolist()}


class _InBatches:
    """A denoiser that calls another one with a bounded number of rows."""

    def __init__(self, model: Any, size: int) -> None:
        self.model, self.size = model, size

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        parts = [
            call_denoiser(
                self.model,
                x[first : first + self.size],
                sigma[first : first + self.size],
                **{name: value[first : first + self.size] for name, value in condition.items()},
            )
            for first in range(0, len(x), self.size)
        ]
        return torch.cat(parts)


class _Shaped(nn.Module):
    """The energy of a model for states that the exact energy draws in another shape, such as [n, 64]."""

    def __init__(self, model: Any, shape: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.model, self.shape, self.size = model, shape, size

    def energy(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        states = x.reshape(len(x), *self.shape)
        return torch.cat([energy_of(self.model, rows, sigma) for rows in states.split(self.size)])


def default_levels(
    spread: float, sigma_min: float, sigma_max: float, count: int = 8
) -> list[float]:
    """Return levels evenly spaced in ln sigma, from 20 to 1/20 of the data's spread, within the given range."""
    high, low = min(20 * spread, sigma_max), max(spread / 20, sigma_min)
    high = max(high, 2 * low)
    steps = torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64)
    return [float(level) for level in steps.exp()]
