"""The diagnostics of models at every noise level, gathered in one table.

The states are data with noise, so that they show the models where the data is.

| column           | what it is                                                                            |
|------------------|---------------------------------------------------------------------------------------|
| NAsym            | the antisymmetric share of the Jacobian of the score                                  |
| circulation      | the circulation of the score around rectangles, relative to its strength              |
| Fokker-Planck sd | sigma times the sd of the residual of the heat equation, in nats                      |
| self-check sd    | the sd of energy differences against the score, over the steps from the level above   |
| error on p       | the sd of the energy against the exact one on draws of p, in nats                     |
| error on p²      | the same on draws of p²                                                               |
| error between    | the part of it between the components of p, in nats                                   |

All are 0 for an exact energy, except for the error of the step size in the self-check.
The first two need a denoiser, the next two an energy, and the last three an exact energy to compare with.
Sources: those of `edmfast.diagnostics`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.tables import Cell
from edmfast.diagnostics import (
    conservativity_report,
    energy_error,
    fokker_planck,
    noising_trajectory,
    self_check,
)
from edmfast.evaluation.likelihood import has_energy
from edmfast.evaluation.tables import Table
from edmfast.models.calling.foreign import energy_of

SUBSTEPS = 8
"""The steps of the self-check between two levels of the table."""
NOTES = (
    "NAsym, circulation: 0 where the score is a gradient, at most 1",
    "Fokker-Planck: sigma times the sd of the residual over states, in nats",
    f"self-check: sd over paths of energy differences minus those of the score, over {SUBSTEPS} steps from the",
    "    level above, in nats; long steps leave some of it even to an exact energy",
    "error on p, on p², between: sd of the energy against the exact one, and its part between components, in nats",
)


def level_table(
    models: Mapping[str, Any],
    data: Tensor,
    sigmas: Sequence[float],
    *,
    truth: Any = None,
    draws: int = 2048,
    probes: int = 4,
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    finished: Callable[[str], Any] = lambda part: None,
) -> Table:
    """Measure models at every noise level and return one row for each model and level.

    models: denoisers or energies by name. data: clean samples [n, *shape], n >= 2, in the dtype of the models.
    sigmas: the noise levels, decreasing. truth: an exact energy. draws: the states of its energy errors. probes:
    the random probes for Jacobians. condition: keyword conditions [n]. finished: called after each part.
    """
    levels, given = [*sigmas], dict(condition or {})
    path = noising_trajectory(data, _refined(levels), seed=seed)
    states = path[::SUBSTEPS]
    rows: list[dict[str, Cell]] = []
    for name, model in models.items():
        columns = dict(_conservativity(model, states, levels, probes, seed, given))
        finished(f"{name}: conservativity")
        if has_energy(model):
            columns |= _consistency(model, path, states, levels, probes, seed, given)
            finished(f"{name}: consistency")
            if truth is not None:
                columns |= _errors(model, truth, states, levels, draws, seed)
                finished(f"{name}: energy error")
        for i, sigma in enumerate(levels):
            own = {column: values[i] for column, values in columns.items()}
            rows.append({"model": name, "sigma": sigma, **own})
    return Table("Consistency by noise level", tuple(rows), NOTES)


def parts_of(models: Mapping[str, Any], truth: Any) -> int:
    """Return how often `level_table` calls `finished`."""
    energies = sum(has_energy(model) for model in models.values())
    return len(models) + energies * (1 if truth is None else 2)


def _refined(levels: list[float]) -> list[float]:
    """Return the levels with SUBSTEPS - 1 further ones between neighbours, evenly spaced in ln sigma."""
    fine = [levels[0]]
    for high, low in itertools.pairwise(levels):
        fine += [high * (low / high) ** (k / SUBSTEPS) for k in range(1, SUBSTEPS)] + [low]
    return fine


def _conservativity(
    model: Any,
    states: list[Tensor],
    levels: list[float],
    probes: int,
    seed: int,
    condition: dict[str, Tensor],
) -> Iterator[tuple[str, list[float]]]:
    options: dict[str, Any] = {"probes": probes, "seed": seed, **condition}
    report = conservativity_report({"": model}, states, levels, **options)
    yield "NAsym", report.asymmetry[""].tolist()
    yield "circulation", report.circulation[""].tolist()


def _consistency(
    model: Any,
    path: list[Tensor],
    states: list[Tensor],
    levels: list[float],
    probes: int,
    seed: int,
    condition: dict[str, Tensor],
) -> dict[str, list[float]]:
    exact = states[0].shape[1:].numel() <= 64
    options: dict[str, Any] = {"probes": None if exact else probes, "seed": seed, **condition}
    residual = fokker_planck(model, states, levels, **options)
    scaled = (residual.sd * residual.sigmas).tolist()
    steps = self_check(model, path, _refined(levels), **condition).residuals
    # the residuals of the steps between two levels of the table add up along a path
    sums = steps.reshape(len(levels) - 1, SUBSTEPS, -1).sum(1)
    return {
        "Fokker-Planck sd": scaled,
        "self-check sd": [math.nan, *sums.std(1).tolist()],
    }


def _errors(
    model: Any, truth: Any, states: list[Tensor], levels: list[float], draws: int, seed: int
) -> dict[str, list[float]]:
    shaped: Any = _Shaped(model, tuple(states[0].shape[1:]))
    options: dict[str, Any] = {"count": draws, "seed": seed}
    if not hasattr(truth, "sample"):
        options["draws"] = states  # data with noise are draws of p too, if fewer
    try:
        error = energy_error(shaped, truth, levels, **options)
        squared = {"error on p²": error.on_square.tolist()}
    except ValueError as refused:
        # p² of a mixture of many components takes too much memory
        if "squared_draws" not in str(refused):
            raise
        error, squared = energy_error(shaped, truth, levels, squared_draws=states, **options), {}
    if hasattr(truth, "power"):
        columns = {"error on p": error.on_p.tolist(), **squared}
    else:
        columns = {"error on p": error.on_p.tolist()}
    return columns | {"error between": error.between.tolist()}


class _Shaped(nn.Module):
    """The energy of a model for states that the exact energy draws in another shape, such as [n, 64]."""

    def __init__(self, model: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def energy(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return energy_of(self.model, x.reshape(len(x), *self.shape), sigma)


def default_levels(
    spread: float, sigma_min: float, sigma_max: float, count: int = 8
) -> list[float]:
    """Return levels evenly spaced in ln sigma, from 20 to 1/20 of the data's spread, within the given range."""
    high, low = min(20 * spread, sigma_max), max(spread / 20, sigma_min)
    high = max(high, 2 * low)
    steps = torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64)
    return [float(level) for level in steps.exp()]
